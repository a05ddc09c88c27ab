// How splats are drawn. Viser draws all of them with one material, sorted together; what a visitor chose is decided in its
// shader, so it costs the server nothing, changes at once and follows the camera. The lines that are replaced below are those
// of Viser 1.1.1: it is pinned, and a test in a browser fails where they are gone.

import {MOST_SIDES} from './layout.js';

export const LOOKS = ['color', 'depth', 'opacity', 'ellipsoids'];

// One set of uniforms for every material that Viser makes (a new one whenever the number of splats changes).
export const uniforms = {
  sides: {value: 2}, // the buffer holds one side after the other, each as long as the next
  places: {value: new Float32Array(3 * MOST_SIDES)}, // see layout.js
  look: {value: 0}, // place in LOOKS
  ink: {value: new Float32Array([1, 1, 1])}, // what is opaque, in the opacity look
};

const VERTEX = [
  [
    'uniform float transitionInState;',
    `uniform float transitionInState;
  uniform uint sides;
  uniform vec3 places[${MOST_SIDES}];
  flat out highp vec2 vSpan;
  out float vNear;`,
  ],
  [
    'gl_Position = vec4(0.0, 0.0, 2.0, 1.0);',
    `gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
    vec3 place = places[int(sortedIndex * sides / numGaussians)];
    if (place.y >= place.z) return;`,
  ],
  [
    'vPosition = position.xy;',
    `vPosition = position.xy;
    vSpan = place.yz * viewport.x;
    vNear = 0.5 + 0.7 * (c_cam.z - T_camera_group[3].z);  // 0..1 through an object, whatever the camera's distance`,
  ],
  ['(vec2(pos2d) / pos2d.w', '(vec2(pos2d) / pos2d.w + vec2(2.0 * place.x, 0.0)'],
];

const FRAGMENT = [
  [
    'in vec2 vPosition;',
    `in vec2 vPosition;
  flat in highp vec2 vSpan;
  in float vNear;
  uniform int look;
  uniform vec3 ink;

  vec3 viridis(float t) {  // a polynomial through matplotlib's table
    return vec3(0.2777, 0.0054, 0.3341) + t * (vec3(0.1051, 1.4046, 1.3846) + t * (vec3(-0.3309, 0.2148, 0.0951)
      + t * (vec3(-4.6342, -5.7991, -19.3324) + t * (vec3(6.2283, 14.1799, 56.6906)
      + t * (vec3(4.7764, -13.7451, -65.3530) + t * vec3(-5.4355, 4.6459, 26.3124))))));
  }

  vec4 dressed(float r2, float alpha) {  // r2 in 0..4: squared distance to the centre, 1 at sqrt(2) standard deviations
    if (look == 1) return vec4(viridis(clamp(vNear, 0.0, 1.0)), alpha);
    if (look == 2) return vec4(ink, alpha);
    if (look == 3) return vec4(vRgba.rgb * (0.35 + 0.65 * sqrt(max(0.0, 1.0 - r2))), 1.0);  // lit from the camera
    return vec4(vRgba.rgb, alpha);
  }`,
  ],
  [
    'if (A < -4.0) discard;',
    `if (A < -4.0 || gl_FragCoord.x < vSpan.x || gl_FragCoord.x >= vSpan.y) discard;
    if (look == 3 && (A < -1.0 || vRgba.a < 0.1)) discard;`,
  ],
  ['gl_FragColor = vec4(vRgba.rgb, B);', 'gl_FragColor = dressed(-A, B);'],
];

// Makes the material of a scene's splats, if there are any, draw as the uniforms say.
export function dress(scene) {
  scene.traverse((mesh) => {
    const material = mesh.material;
    if (!material?.uniforms?.textureT_camera_groups || material.uniforms.places) return;
    mesh.boundingSphere = {center: mesh.position, radius: 1e4}; // three.js makes NaN of its flat geometry, and complains
    Object.assign(material.uniforms, uniforms);
    material.vertexShader = replaced(material.vertexShader, VERTEX);
    material.fragmentShader = replaced(material.fragmentShader, FRAGMENT);
    material.needsUpdate = true;
  });
}

function replaced(source, pairs) {
  for (const [old, put] of pairs) {
    if (source.split(old).length !== 2) throw new Error(`Viser's shader does not hold this line once: ${old}`);
    source = source.replace(old, () => put);
  }
  return source;
}
