// Runs before Viser's own script. A browser without a GPU draws on a CPU, where a frame at full size takes half a second of a
// core: the view falls behind, and training with it where both share a machine. Half the pixels each way and no multisampling
// cost a third of that, and splats are soft enough that it is hardly seen. What is left is a cost of every splat in every
// frame, and Viser draws several frames for each update: unless the visitor turns the view, they keep a distance that lets
// one end before the next.
(() => {
  const APART_MS = 300, TURNING_MS = 500;

  const probe = document.createElement('canvas').getContext('webgl');
  const known = probe?.getExtension('WEBGL_debug_renderer_info');
  const renderer = known ? probe.getParameter(known.UNMASKED_RENDERER_WEBGL) : '';
  probe?.getExtension('WEBGL_lose_context')?.loseContext();
  if (!/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer)) return;

  const make = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return make.call(this, kind, kind.startsWith('webgl') ? {...options, antialias: false} : options);
  };
  const address = new URL(location.href);
  if (!address.searchParams.has('fixedDpr')) {
    address.searchParams.set('fixedDpr', '0.5');
    history.replaceState(history.state, '', address);
  }

  const ask = window.requestAnimationFrame.bind(window), cancel = window.cancelAnimationFrame.bind(window);
  const pending = new Set();
  let drawn = 0, turned = 0;
  for (const kind of ['pointerdown', 'pointermove', 'wheel', 'keydown'])
    addEventListener(kind, (event) => { if (kind !== 'pointermove' || event.buttons) turned = performance.now(); }, true);
  window.requestAnimationFrame = (callback) => {
    const frame = (now) => {
      if (!pending.has(id)) return;
      const wait = now === drawn || now - turned < TURNING_MS ? 0 : drawn + APART_MS - now;
      if (wait > 0) return setTimeout(() => ask(frame), wait);
      pending.delete(id);
      drawn = now;
      callback(now);
    };
    const id = ask(frame);
    pending.add(id);
    return id;
  };
  window.cancelAnimationFrame = (id) => { pending.delete(id); cancel(id); };
})();
