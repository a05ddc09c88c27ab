// The training cameras of the last iteration, as lines over every side. They are drawn on a canvas above Viser's: lines of
// its scene would appear once, in the middle, and for every visitor.

const NEAREST = 0.05; // of the camera's near side, where lines are cut

// segments [N, 2, 3] in the world of `node`; spans as in layout.js; the first `bright` lines belong to the view that is shown
// on the page.
export function drawFrustums(canvas, segments, bright, camera, node, spans, colors) {
  const scale = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext('2d');
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!segments?.length) return;
  const view = camera.matrixWorldInverse.clone().multiply(node.matrixWorld);
  const focal = height / 2 / Math.tan((camera.fov * Math.PI) / 360);
  const lines = [];
  for (let i = 0; i < segments.length; i += 6) {
    const ends = cut(seen(view.elements, segments, i), seen(view.elements, segments, i + 3));
    lines.push(ends?.map(([x, y, z]) => [width / 2 + (focal * x) / z, height / 2 - (focal * y) / z]));
  }
  for (const [shift, from, to] of spans) {
    if (from >= to) continue;
    pen.save();
    pen.beginPath();
    pen.rect(from * width, 0, (to - from) * width, height);
    pen.clip();
    pen.translate(shift * width, 0);
    for (const [first, last, color, thick] of [[bright, lines.length, colors.dim, 1], [0, bright, colors.bright, 1.75]]) {
      pen.beginPath();
      for (const line of lines.slice(first, last)) {
        if (!line) continue;
        pen.moveTo(...line[0]);
        pen.lineTo(...line[1]);
      }
      pen.strokeStyle = color;
      pen.lineWidth = thick;
      pen.stroke();
    }
    pen.restore();
  }
}

// A point in front of the camera: right, up, distance.
function seen(m, points, i) {
  const [x, y, z] = [points[i], points[i + 1], points[i + 2]];
  const row = (k) => m[k] * x + m[k + 4] * y + m[k + 8] * z + m[k + 12];
  return [row(0), row(1), -row(2)];
}

// The part of a line that lies in front of the camera, or null.
function cut(a, b) {
  if (a[2] < NEAREST && b[2] < NEAREST) return null;
  const at = (p, q) => p.map((value, k) => value + ((q[k] - value) * (NEAREST - p[2])) / (q[2] - p[2]));
  return [a[2] < NEAREST ? at(a, b) : a, b[2] < NEAREST ? at(b, a) : b];
}
