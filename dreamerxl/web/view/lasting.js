// Runs before Viser's own script, which connects again, once a second, but only while its document has the focus. A view in
// a frame seldom has it: one that can be seen counts as focused.
(() => {
  const focused = document.hasFocus.bind(document);
  document.hasFocus = () => focused() || !document.hidden;
  document.addEventListener('visibilitychange', () => dispatchEvent(new Event('focus')));
})();
