// Points and strokes as they are drawn over an image and put into words. A mark: {class, radius, path}, in its pixels.

export const ERASE = "erase", BACKGROUND = "background";

const at = ([x, y]) => `${Math.round(x)}, ${Math.round(y)}`;

export function inWords({ class: name, path, radius }) {
  const place = path.length > 1 ? `stroke from ${at(path[0])} to ${at(path.at(-1))}` : at(path[0]);
  return `${name}, ${place}${radius ? `, radius ${radius}` : ""}`;
}

function stroke(context, width, strokeStyle) {
  Object.assign(context, { lineWidth: width, strokeStyle, lineCap: "round", lineJoin: "round" });
  context.stroke();
}

// Onto a canvas on which the image is [fx, fy] times as large; `pixel`: how many of its pixels lie in one of the
// screen's.
export function paintMark(context, { class: name, radius, path }, color, [fx, fy], pixel) {
  const ink = name === ERASE ? "#000" : color, [[x, y]] = path;
  context.beginPath();
  context.setLineDash(name === ERASE ? [4 * pixel, 4 * pixel] : []);
  if (path.length > 1) {
    path.forEach(([px, py], k) => context[k ? "lineTo" : "moveTo"](px * fx, py * fy));
    context.globalAlpha = 0.35;
    if (radius) stroke(context, 2 * radius * fx, color);
    context.globalAlpha = 1;
    stroke(context, 6 * pixel, "#fff");
    stroke(context, 3 * pixel, ink);
    context.setLineDash([]);
    return;
  }
  if (radius) {
    context.ellipse(x * fx, y * fy, radius * fx, radius * fy, 0, 0, 2 * Math.PI);
    stroke(context, 3 * pixel, "#fff");
    stroke(context, 1.5 * pixel, ink);
    context.beginPath();
  }
  context.setLineDash([]);
  context.arc(x * fx, y * fy, 5 * pixel, 0, 2 * Math.PI);
  context.fillStyle = color;
  context.fill();
  stroke(context, 3 * pixel, "#000");
  stroke(context, 1.5 * pixel, "#fff");
}

export function paintCross(context, [x, y], [fx, fy], pixel) {
  const arm = 12 * pixel;
  context.beginPath();
  for (const [dx, dy] of [[arm, 0], [0, arm]]) {
    context.moveTo(x * fx - dx, y * fy - dy);
    context.lineTo(x * fx + dx, y * fy + dy);
  }
  stroke(context, 4 * pixel, "#fff");
  stroke(context, 2 * pixel, "#d00");
}
