// Where each side is drawn in the one picture, and through which lens. All sides stand at the same place in the world, so
// one camera shows the same aspect of each; x is measured in shares of the picture's width.

export const MOST_SIDES = 4;

// Tangents of half a field of view, seen from where the first camera stands.
const USUAL = Math.tan((12 * Math.PI) / 180);
const OBJECT = 0.182; // holds an object, whichever way it is turned
const COVERED = 108; // pixels at top and bottom where labels and controls lie

// For each side [shift, from, to]: how far its middle lies from the picture's, and the span that it is drawn in.
export function places(layout, sides, split, shown) {
  return Array.from({length: sides}, (_, side) => {
    if (layout === 'blink') return [0, 0, side === shown ? 1 : 0];
    if (layout === 'split') return [0, border(side, sides, split), border(side + 1, sides, split)];
    return [(side + 0.5) / sides - 0.5, side / sides, (side + 1) / sides];
  });
}

// The first side reaches to the divider; the others share what is left.
function border(side, sides, split) {
  if (side === 0 || sides === 1) return side;
  return split + ((1 - split) * (side - 1)) / (sides - 1);
}

// The vertical field of view, in degrees, that holds an object in each column of a picture of that many pixels.
export function lens(width, height, layout, sides) {
  const columns = layout === 'row' ? sides : 1;
  const half = Math.max(USUAL, OBJECT / Math.max(0.3, 1 - COVERED / height), (OBJECT * columns * height) / width);
  return (2 * Math.atan(half) * 180) / Math.PI;
}
