// The view's own controls: where the sides are drawn, how their splats look, cameras, turntable. Everything here belongs to
// one visitor's browser; the server sends the same scene to all of them:
//   /sides        the splats, one side after the other, all at the origin
//   /labels/0...  the name of each side, and on a second line how many Gaussians it has
//   /cameras      lines of the training cameras of the last iteration, never drawn by Viser itself
// Viser keeps its parts at window.__viserMutable.

import {drawFrustums} from './frustums.js';
import {lens, MOST_SIDES, places} from './layout.js';
import {dress, LOOKS, uniforms} from './splats.js';

const BLINK_MS = 800;
const TURN_DEG_PER_S = 20;
const LINES_OF_A_CAMERA = 8;
const INKS = {dark: [0.95, 0.96, 0.98], light: [0.09, 0.1, 0.12]};
const LINES = {dark: {bright: '#2dd4bf', dim: '#9aa1ad'}, light: {bright: '#0f766e', dim: '#7b828e'}};
const LAYOUT_WORDS = {
  row: (names) => `${names.join(', ')} side by side`,
  split: (names) => `${names.join(' and ')} in one place, with a divider`,
  blink: (names) => `${names.join(' and ')} in turn, in one place`,
};
const LOOK_WORDS = {color: 'in colour', depth: 'as depth', opacity: 'as opacity', ellipsoids: 'as ellipsoids'};

const KEPT = 'dreamerxl-view'; // layout and look stay when this tab opens another view, of a past run for example
const chosen = {layout: 'row', split: 0.5, shown: 0, look: 'color', cameras: false, turning: false, ...kept()};
const find = (id) => document.getElementById(id);
let sides = 1, theme = 'dark', held = false;

const viser = () => window.__viserMutable;
const tree = () => window.__viserSceneTree?.getState() ?? {};

// three.js announces every scene that it makes to its developer tools: ours is known before its first frame.
window.__THREE_DEVTOOLS__ ??= new EventTarget();
window.__THREE_DEVTOOLS__.addEventListener('observe', ({detail: scene}) => {
  if (!scene.isScene) return;
  scene.onBeforeRender = (renderer, _, camera) => { if (scene === viser()?.scene) prepare(scene, camera); };
  scene.onAfterRender = (renderer, _, camera) => { if (scene === viser()?.scene) drawCameras(camera); };
});

// Before each frame: what the shader is to know, and the lens for the shape that the picture has now.
function prepare(scene, camera) {
  const canvas = viser().canvas;
  if (canvas.getAttribute('role') !== 'img') {
    canvas.setAttribute('role', 'img');
    canvas.tabIndex = 0;
    tell();
  }
  readLabels();
  dress(scene);
  uniforms.sides.value = sides;
  uniforms.look.value = LOOKS.indexOf(chosen.look);
  uniforms.ink.value.set(INKS[theme]);
  uniforms.places.value.set(spans().flat());
  const degrees = fieldOfView(canvas);
  if (canvas.clientHeight && Math.abs(camera.fov - degrees) > 1e-3) {
    camera.fov = degrees;
    camera.updateProjectionMatrix();
    viser().requestRender();
  }
}

function fieldOfView(canvas) {
  return lens(canvas.clientWidth, canvas.clientHeight, chosen.layout, sides);
}

function spans() {
  return places(chosen.layout, sides, chosen.split, chosen.shown % sides);
}

function readLabels() {
  const nodes = tree(), labels = [];
  for (let side = 0, node; side < MOST_SIDES && (node = nodes[`/labels/${side}`]); side++) labels.push(node.message.props.text);
  const list = find('labels');
  if (!labels.length || list.dataset.of === labels.join('\n\n')) return;
  list.dataset.of = labels.join('\n\n');
  list.replaceChildren(...labels.map((text) => {
    const [name, count] = text.split('\n');
    const item = document.createElement('li');
    item.append(Object.assign(document.createElement('b'), {textContent: name}));
    if (count) item.append(Object.assign(document.createElement('small'), {textContent: count}));
    return item;
  }));
  sides = labels.length;
  tell();
}

// What is chosen goes to the page: labels and divider where they belong, and words for those who do not see the picture.
function tell() {
  document.body.dataset.layout = sides > 1 ? chosen.layout : 'row';
  find('layouts').hidden = sides < 2;
  find('divider').hidden = chosen.layout !== 'split' || sides < 2;
  const items = [...find('labels').children];
  items.forEach((item, side) => { item.hidden = chosen.layout === 'blink' && side !== chosen.shown % sides; });
  const names = items.map((item) => item.querySelector('b').textContent);
  const how = `${LAYOUT_WORDS[document.body.dataset.layout](names)}, ${LOOK_WORDS[chosen.look]}`;
  const words = `3D view: ${how}${chosen.cameras ? ', with the training cameras' : ''}.`;
  viser()?.canvas?.setAttribute('aria-label', `${words} Arrow keys turn it, plus and minus zoom, Home goes back.`);
  if (names.length && find('told').value !== words) find('told').value = words;
}

function choose(changes) {
  Object.assign(chosen, changes);
  const {layout, look, split} = chosen;
  sessionStorage.setItem(KEPT, JSON.stringify({layout, look, split}));
  tell();
  viser()?.requestRender();
}

function kept() {
  const {layout, look, split} = JSON.parse(sessionStorage.getItem(KEPT) ?? '{}');
  return layout in LAYOUT_WORDS && look in LOOK_WORDS && split >= 0 && split <= 1 ? {layout, look, split} : {};
}

for (const input of document.querySelectorAll('#tools input')) {
  input.checked = chosen[input.name] === input.value;
  input.addEventListener('change', () => {
    choose({[input.name]: input.value, shown: 0});
    if (chosen.cameras && input.name === 'layout') stepBack();
  });
}
find('tools').addEventListener('submit', (event) => event.preventDefault());
find('divider').value = chosen.split;
find('divider').addEventListener('input', (event) => choose({split: Number(event.target.value)}));

setInterval(() => {
  if (chosen.layout === 'blink' && !document.hidden) choose({shown: (chosen.shown + 1) % Math.max(1, sides)});
}, BLINK_MS);

// Training cameras stand around the object, most of them outside of the first view: step back to have them in sight.
let near = null;
find('cameras').addEventListener('click', (event) => {
  const cameras = pressed(event.currentTarget);
  if (cameras) near = viser().cameraControl.distance;
  choose({cameras});
  if (cameras) stepBack();
  else viser().cameraControl.dollyTo(near, true);
});

function stepBack() {
  const {cameraControl, canvas} = viser();
  const column = canvas.clientWidth / canvas.clientHeight / (chosen.layout === 'row' ? sides : 1);
  const held = Math.tan((fieldOfView(canvas) * Math.PI) / 360) * Math.min(1, column);
  cameraControl.dollyTo(Math.max(near, (0.9 * reach(segments())) / held), true);
}

function reach(points) {
  let farthest = 0;
  for (let i = 0; i < points.length; i += 3) farthest = Math.max(farthest, Math.hypot(points[i], points[i + 1], points[i + 2]));
  return farthest;
}

function segments() {
  const {buffer, byteOffset, byteLength} = tree()['/cameras']?.message.props.points ?? new Float32Array();
  return new Float32Array(buffer, byteOffset, byteLength / 4);
}

function drawCameras(camera) {
  const canvas = find('frustums');
  if (!chosen.cameras && !canvas.width) return;
  const node = viser().nodeRefFromName['/sides'];
  if (chosen.cameras && node) drawFrustums(canvas, segments(), LINES_OF_A_CAMERA, camera, node, spans(), LINES[theme]);
  else canvas.width = canvas.height = 0;
}

find('turntable').addEventListener('click', (event) => {
  choose({turning: pressed(event.currentTarget)});
  if (!chosen.turning) return;
  let before = null;
  requestAnimationFrame(function turn(now) {
    const seconds = before === null ? 0 : Math.min(0.5, (now - before) / 1000);
    before = now;
    if (!chosen.turning) return;
    if (!held) viser()?.cameraControl?.rotate((-TURN_DEG_PER_S * seconds * Math.PI) / 180, 0, false);
    requestAnimationFrame(turn);
  });
});
for (const [kind, down] of [['pointerdown', true], ['pointerup', false], ['pointercancel', false]])
  addEventListener(kind, () => { held = down; }, true);

find('reset').addEventListener('click', reset);
function reset() {
  viser().resetCameraPose(true);
}

addEventListener('keydown', (event) => {
  const control = viser()?.cameraControl;
  if (!control || event.target.matches('input') || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '+' || event.key === '=') control.dolly(0.15 * control.distance, true);
  else if (event.key === '-') control.dolly(-0.15 * control.distance, true);
  else if (event.key === 'Home') reset();
});

function pressed(button) {
  const now = button.getAttribute('aria-pressed') !== 'true';
  button.setAttribute('aria-pressed', now);
  return now;
}

// Dark or light as the page around the view is, or as the system is where there is no page.
const page = window.frameElement?.ownerDocument.body;
const system = matchMedia('(prefers-color-scheme: dark)');
function follow() {
  theme = (page ? page.classList.contains('dark') : system.matches) ? 'dark' : 'light';
  document.documentElement.dataset.theme = theme;
  viser()?.requestRender();
}
if (page) new MutationObserver(follow).observe(page, {attributeFilter: ['class']});
else system.addEventListener('change', follow);
follow();
