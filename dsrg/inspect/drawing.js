// Layers to pixels. Values come from the server as the project computed them; here they only get colors.

export const UNLABELED = 255;
const DETAIL = 640; // pixels that the longer side of the canvas has at least, so that outlines are thin

export function decode(layer) {
  const bytes = Uint8Array.from(atob(layer.data), character => character.charCodeAt(0));
  return layer.kind === "map" ? new Float32Array(bytes.buffer) : bytes;
}

export function canvasSize(width, height) {
  const factor = Math.max(1, DETAIL / Math.max(width, height));
  return [Math.round(width * factor), Math.round(height * factor)];
}

// Where pixel `place` of `count` falls among `cells`: between cells if their corners lie on the image's corners.
function position(place, count, cells, corners) {
  return corners ? place * (cells - 1) / Math.max(1, count - 1) : (place + 0.5) * cells / count - 0.5;
}

function nearest(place, count, cells, corners) {
  return Math.min(cells - 1, Math.max(0, Math.round(position(place, count, cells, corners))));
}

// The value of a layer under the canvas's pixel (x, y).
export function valueAt(layer, values, x, y, width, height) {
  const row = nearest(y, height, layer.height, layer.corners), column = nearest(x, width, layer.width, layer.corners);
  return values[row * layer.width + column];
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  return [canvas, context, context.createImageData(width, height)];
}

// Numbers 0..1 in viridis, dark blue to yellow.
export function drawMap(layer, values, width, height, viridis) {
  const [canvas, context, picture] = blank(width, height);
  const pixels = picture.data;
  for (let y = 0, at = 0; y < height; y++) {
    const down = Math.min(layer.height - 1, Math.max(0, position(y, height, layer.height, layer.corners)));
    const top = Math.floor(down), bottom = Math.min(layer.height - 1, top + 1), low = down - top;
    for (let x = 0; x < width; x++, at += 4) {
      const along = Math.min(layer.width - 1, Math.max(0, position(x, width, layer.width, layer.corners)));
      const left = Math.floor(along), right = Math.min(layer.width - 1, left + 1), far = along - left;
      const upper = values[top * layer.width + left] * (1 - far) + values[top * layer.width + right] * far;
      const lower = values[bottom * layer.width + left] * (1 - far) + values[bottom * layer.width + right] * far;
      const shade = 3 * Math.round(255 * Math.min(1, Math.max(0, upper * (1 - low) + lower * low)));
      pixels[at] = viridis[shade];
      pixels[at + 1] = viridis[shade + 1];
      pixels[at + 2] = viridis[shade + 2];
      pixels[at + 3] = 255;
    }
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

// Class colors with a white and a black line along every border, background hatched; unlabeled pixels stay clear.
// With the classes' names (nameRegions) they are told apart without their colors too. The canvas keeps its labels.
export function drawLabels(layer, values, width, height, palette) {
  const [canvas, context, picture] = blank(width, height);
  const rows = Array.from({ length: height }, (_, y) => nearest(y, height, layer.height, layer.corners));
  const columns = Array.from({ length: width }, (_, x) => nearest(x, width, layer.width, layer.corners));
  const labels = new Uint8Array(width * height);
  for (let y = 0, at = 0; y < height; y++) {
    const row = rows[y] * layer.width;
    for (let x = 0; x < width; x++, at++) labels[at] = values[row + columns[x]];
  }
  const ink = new Uint32Array(picture.data.buffer);
  const color = Uint32Array.from({ length: 256 }, (_, k) =>
    (0xff << 24 | palette[3 * k + 2] << 16 | palette[3 * k + 1] << 8 | palette[3 * k]) >>> 0);
  const differs = (at, x, y, reach) => {
    const own = labels[at];
    return (x >= reach && labels[at - reach] !== own) || (x + reach < width && labels[at + reach] !== own) ||
      (y >= reach && labels[at - reach * width] !== own) || (y + reach < height && labels[at + reach * width] !== own);
  };
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const label = labels[at];
      if (label === UNLABELED) continue;
      if (label === 0) {
        ink[at] = (x + y) % 14 < 2 ? 0xff909090 : 0xff000000;
      } else if (differs(at, x, y, 1) || differs(at, x, y, 2)) {
        ink[at] = 0xffffffff;
      } else {
        ink[at] = differs(at, x, y, 4) ? 0xff000000 : color[label];
      }
    }
  }
  context.putImageData(picture, 0, 0);
  return Object.assign(canvas, { labels });
}

// Covers what is 0 in `differs`, one value a pixel.
export function drawVeil(differs, width, height) {
  const [canvas, context, picture] = blank(width, height);
  const ink = new Uint32Array(picture.data.buffer);
  differs.forEach((one, at) => { if (!one) ink[at] = 0xd8ffffff; });
  context.putImageData(picture, 0, 0);
  return canvas;
}

const NAME = 14; // pixels of the screen that names are high

// Each class's name once, at the pixel of it that is nearest to the middle of all its pixels. `pixel`: how many of the
// canvas's lie in one of the screen's.
export function nameRegions(context, labels, width, height, names, pixel) {
  const sums = new Map();
  const every = 4;
  const visit = action => {
    for (let y = 2; y < height; y += every) {
      for (let x = 2; x < width; x += every) {
        if (labels[y * width + x] !== UNLABELED) action(labels[y * width + x], x, y);
      }
    }
  };
  visit((label, x, y) => {
    const sum = sums.get(label) ?? { count: 0, x: 0, y: 0, nearest: Infinity };
    sum.count++;
    sum.x += x;
    sum.y += y;
    sums.set(label, sum);
  });
  visit((label, x, y) => {
    const sum = sums.get(label);
    const away = (x - sum.x / sum.count) ** 2 + (y - sum.y / sum.count) ** 2;
    if (away < sum.nearest) Object.assign(sum, { nearest: away, at: [x, y] });
  });
  context.font = `600 ${Math.round(NAME * pixel)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const [label, sum] of sums) {
    const half = context.measureText(names[label]).width / 2 + 4;
    const x = Math.min(width - half, Math.max(half, sum.at[0]));
    context.lineWidth = NAME * pixel / 3;
    context.strokeStyle = "#000";
    context.strokeText(names[label], x, sum.at[1]);
    context.fillStyle = "#fff";
    context.fillText(names[label], x, sum.at[1]);
  }
}
