"""How the page looks: a Gradio theme with the system's own fonts, a style sheet and the few lines of script in its head."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base, colors, sizes

STYLE_SHEET = Path(__file__).with_name("style.css")
ICON = Path(__file__).with_name("icon.svg")

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Consolas", "DejaVu Sans Mono", "monospace")

# Keeps the run's id in the address, opens the guide on a first visit, takes files that are dropped anywhere, and brings the
# page back when the server, or the way to it, has been away.
HEAD = """
<meta name="color-scheme" content="light dark">
<script>
(() => {
  let started = null, lost = false;
  setInterval(() => {
    const run = document.querySelector('#status [data-run]')?.dataset.run;
    const address = new URL(location.href);
    if (run && address.searchParams.get('run') !== run) {
      address.searchParams.set('run', run);
      history.replaceState(history.state, '', address);
    }
  }, 1000);
  let timer = 0;
  const look = async () => {
    clearTimeout(timer);
    try {
      const answer = await fetch('health', {cache: 'no-store', signal: AbortSignal.timeout(15000)});
      if (answer.status === 401) location.reload();  // to the door
      const health = await answer.json();
      // After a loss Gradio's page has to be loaded again; it would do so too, but later.
      if (started !== null && (lost || health.started !== started)) location.reload();
      started = health.started;
      lost = false;
    } catch (error) {
      lost = true;
    }
    document.documentElement.classList.toggle('away', lost);
    clearTimeout(timer);
    timer = setTimeout(look, lost ? 500 : 4000);
  };
  look();
  for (const change of ['online', 'offline']) addEventListener(change, look);
  const ask = window.fetch;
  window.fetch = (...what) => ask(...what).catch((error) => {  // one of Gradio's own that broke is the first sign of a loss
    if (error.name !== 'AbortError' && String(what[0]?.url ?? what[0]).includes('/gradio_api/run/')) {
      lost = true;
      look();
    }
    throw error;
  });
  const greet = () => {
    const guide = document.getElementById('guide'), ask = document.getElementById('ask-guide');
    if (!guide || !ask) { setTimeout(greet, 200); return; }
    ask.addEventListener('click', () => guide.showModal());
    guide.addEventListener('close', () => { try { localStorage.setItem('dreamerxl-guided', '1'); } catch (error) {} });
    let guided = navigator.webdriver;
    try { guided ||= localStorage.getItem('dreamerxl-guided'); } catch (error) {}
    if (!guided) guide.showModal();
  };
  greet();
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
  const over = (on) => document.documentElement.classList.toggle('dropping', on);
  addEventListener('dragover', (event) => { if (carries(event)) { event.preventDefault(); over(true); } });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) over(false); });
  addEventListener('drop', (event) => {
    over(false);
    const input = document.getElementById('dropped')?.parentElement.querySelector('input[type=file]');
    if (!carries(event) || !input || event.target.closest?.('#dropped')) return;
    event.preventDefault();
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  });
})();
</script>
"""

# Of single components: what was pressed in them becomes an event with a name.
PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-preset]');
  if (!button) return;
  for (const other of element.querySelectorAll('button[data-preset]')) other.setAttribute('aria-pressed', other === button);
  trigger('click', {name: button.dataset.preset});
});
"""

MAKE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-make]');
  if (button) trigger('click', {name: button.dataset.make});
});
"""
DO = """
element.addEventListener('click', (event) => {
  const control = event.target.closest('[data-do]');
  if (!control) return;
  const sure = control.dataset.do.startsWith('delete:') ? confirm('Delete this and all its files?') : true;
  if (sure) trigger('click', {name: control.dataset.do});
});
"""
ABSOLUTE = "(query) => query && !query.includes('://') ? location.origin + location.pathname + query : query"


def make_theme() -> Base:
    """Flat surfaces, hairlines, one accent (teal)."""
    return Base(
        primary_hue=colors.teal,
        neutral_hue=colors.zinc,
        radius_size=sizes.radius_md,
        spacing_size=sizes.spacing_sm,
        text_size=sizes.text_sm,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill_dark="#0c0e11",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        slider_color="*primary_600",
        checkbox_background_color_selected="*primary_600",
        checkbox_border_color_selected="*primary_600",
        input_background_fill="*neutral_100",
        input_background_fill_dark="#22252b",
    )
