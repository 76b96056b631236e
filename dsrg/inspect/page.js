// The page: a grid of all images, and one image large with its layers and thresholds.

import { $, address, ask, make } from "./dom.js";
import { UNLABELED, canvasSize, decode, drawLabels, drawMap, drawVeil, nameRegions, valueAt } from "./drawing.js";
import { Editor } from "./editing.js";

const PAGE = 100; // images asked for at once
const AHEAD = 600; // pixels below the window within which more of the grid is asked for
const FADE = { image: 1, map: 0.7, labels: 0.6 };
const HATCH = "repeating-linear-gradient(135deg, #000 0 4px, #909090 4px 5px)";
const FIRST = { disagreement: "descending", growth: "descending", clicks: "descending" }; // others from the lowest
const DIGITS = {
  1: "image", 2: "cam", 3: "saliency", 4: "seeds", 5: "crf",
  6: "grown", 7: "regrown", 8: "pseudo", 9: "prediction", 0: "truth",
};
const PREDICTION = { kind: "later", key: "prediction", name: "prediction" }; // asked for when it is wanted
const GROWING = ["regrown", "deciding"]; // layers that come of growing anew
const MEANING = {
  id: "id", coverage: "seed coverage", disagreement: "disagreement of classes", growth: "growth",
  iou: "IoU (evaluation)", clicks: "where a click helps most",
};
const THIS_RUN = "this run"; // what stands beside another
const FRAME = 700; // milliseconds that playing stays at a step of growth

let state; // of the project, see Project.state
let palette, viridis;
let rows = []; // of the grid, as far as they are loaded
let total = 0;
let request = 0; // number of the grid's latest question
let filling = false; // more of the grid is on its way
let shown = null; // the image that is large
let settings = null; // of layers, by key, kept from image to image: {on, fade}
let before, now; // thresholds
let playing = null;
let editor; // of points, see Editor

function complain(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

const percent = share => share === null || share === undefined ? "?" : `${(100 * share).toFixed(1)} %`;
const namesOf = tags => tags.map(k => state.classes[k]).join(", ") || "no class";
const nameOf = label => label === UNLABELED ? "unlabeled" : state.classes[label];
const rgb = (colors, k) => `rgb(${colors.slice(3 * k, 3 * k + 3).join()})`;

// The grid

function filters(start) {
  const chosen = Object.fromEntries(["search", "tag", "split", "sort", "order"].map(id => [id, $(id).value]));
  return new URLSearchParams({ ...chosen, start, count: PAGE });
}

async function fill(start = 0) {
  const mine = ++request;
  const answer = await ask(`/api/images?${filters(start)}`);
  if (mine !== request) return;
  if (start === 0) {
    rows = [];
    near.disconnect();
    $("grid").replaceChildren();
  }
  total = answer.total;
  rows.push(...answer.rows);
  $("grid").append(...answer.rows.map(tile));
  const known = answer.known < total ? `, ${answer.known} of them with a value` : "";
  const work = answer.minutes === null ? "" : `, ${Math.ceil(answer.minutes)} minutes of clicks`;
  const working = answer.working ? ", still counting" : "";
  $("total").textContent = `${total} image${total === 1 ? "" : "s"}${known}${work}${working}`;
  $("grid").dataset.ready = start;
  if (start === 0) fillAhead().catch(complain);
  if (answer.working) setTimeout(() => mine === request && !$("gallery").hidden && scrollY === 0 && fill(), 2000);
}

// More of the grid as long as its end is in sight or near it.
async function fillAhead() {
  const below = $("more").getBoundingClientRect().top - innerHeight;
  if (filling || $("gallery").hidden || rows.length >= total || below > AHEAD) return;
  filling = true;
  try {
    await fill(rows.length);
  } finally {
    filling = false;
  }
  await fillAhead();
}

function tile(row) {
  const names = namesOf(row.tags);
  const number = $("sort").value === "id" ? "coverage" : $("sort").value;
  const told = number === "clicks" ? row.reasons[0] : row[number] !== null && `${percent(row[number])} ${number}`;
  const points = row.marks && `${row.marks} point${row.marks === 1 ? "" : "s"}`;
  const facts = [told, points, row.split].filter(Boolean).join(" · ");
  const image = make("img", { alt: "" });
  image.dataset.src = `${address("/thumb", row.id)}?seeds=${Number($("seeded").checked)}`;
  const title = [`${row.id}: ${names}`, ...row.reasons].join("; ");
  const button = make("button", { className: "tile", type: "button", title },
    image, make("b", { textContent: row.id }), make("span", { textContent: names }),
    make("span", { textContent: facts }));
  button.setAttribute("role", "listitem");
  button.dataset.id = row.id;
  button.addEventListener("click", () => { location.hash = encodeURIComponent(row.id); });
  near.observe(button);
  return button;
}

// Only tiles in sight or near it hold their pictures, so that memory is bounded however far one scrolls.
const near = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    const image = target.querySelector("img");
    if (isIntersecting) image.src = image.dataset.src;
    else image.removeAttribute("src");
  }
}, { rootMargin: "800px" });

function moveInGrid(key) {
  const tiles = [...$("grid").children];
  const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const place = tiles.indexOf(document.activeElement);
  tiles[place < 0 ? 0 : Math.min(tiles.length - 1, Math.max(0, place + step))]?.focus();
}

// One image

async function open(id) {
  stop();
  const answer = await ask(address("/api/image", id));
  const picture = new Image();
  picture.src = address("/image", id);
  await picture.decode();
  if (decodeURIComponent(location.hash.slice(1)) !== id) return;
  const layers = [{ kind: "image", key: "image", name: "image" }, ...answer.layers];
  const training = answer.split === "train";
  if (training) {
    const own = { kind: state.fixed.grow ? "missing" : "later", why: state.fixed.grow };
    const after = layers.findIndex(layer => layer.key === "grown") + 1;
    const names = ["grown anew", state.grown_on];
    layers.splice(after, 0, ...GROWING.map((key, place) => ({ ...own, key, name: names[place] })));
    layers.push({ ...PREDICTION });
  } else {
    layers.splice(layers.findIndex(layer => layer.key === "truth"), 0, { ...PREDICTION });
  }
  const [width, height] = canvasSize(picture.naturalWidth, picture.naturalHeight);
  const [wide, high] = [answer.width, answer.height]; // of the image itself, in pixels
  shown = { ...answer, picture, layers, width, height, step: 0, drawn: new Map(), training };
  Object.assign($("canvas"), { width, height });
  for (const layer of layers) settings[layer.key] ??= { on: layer.key === "image", fade: null };
  if (!settings.chosen) {
    settings.seeds && (settings.seeds.on = true);
    settings.prediction.on = !training;
  }
  await openBeside(shown);
  $("gallery").hidden = true;
  $("viewer").hidden = false;
  delete $("viewer").dataset.ready;
  $("title").textContent = id;
  const facts = [`${training ? "training" : "evaluation"} image, tagged ${namesOf(answer.tags)}`, ...answer.reasons];
  $("facts").textContent = facts.join("; ");
  $("readout").textContent = "Point at the image to read its values.";
  const steps = grownSteps();
  $("time").hidden = !steps;
  if (steps) {
    $("step").max = steps.length - 1;
    goToStep(steps.length - 1);
  }
  listLayers();
  showThresholds();
  editor.open({ id, width: wide, height: high, tags: answer.tags, marks: answer.marks, training });
  await fetchLater();
  if (hasSeeds()) refresh();
  draw();
  $("viewer").dataset.ready = id;
}

const hasSeeds = () => shown?.layers.some(({ key, kind }) => key === "seeds" && kind === "labels");

// The other run's layers of the same image, to be switched and faded together with this run's.
async function openBeside(image) {
  if (!state.other) return;
  let layers = [], caption = state.other;
  try {
    layers = (await ask(`${address("/api/image", image.id)}?run=other`)).layers;
  } catch (error) {
    caption += `: ${error.message}`;
  }
  const why = layers.filter(layer => layer.kind === "missing").map(layer => `${layer.name}: ${layer.why}`);
  $("frame").className = "two";
  $("beside").hidden = $("own").hidden = $("difference").hidden = false;
  $("own").textContent = THIS_RUN;
  $("beside").querySelector("figcaption").textContent = [caption, ...why].join("; ");
  Object.assign($("other"), { width: image.width, height: image.height });
  image.other = { ...image, layers: [image.layers[0], ...layers, { ...PREDICTION }], drawn: new Map() };
}

// Layers that a network makes are asked for when they are first switched on.
async function fetchLater() {
  const image = shown;
  for (const layer of image.layers.filter(one => one.kind === "later" && !one.asked && settings[one.key].on)) {
    layer.asked = true;
    if (GROWING.includes(layer.key)) {
      refresh();
    } else {
      layer.name = "prediction (working ...)";
      listLayers();
      draw();
      replace(image, await ask(address("/api/prediction", image.id)));
      if (image.other) replace(image.other, await ask(`${address("/api/prediction", image.id)}?run=other`));
      if (image === shown) listLayers();
    }
  }
  if (image === shown) draw();
}

function replace(image, layer) {
  const place = image.layers.findIndex(one => one.key === layer.key);
  if (place < 0) return;
  image.layers[place] = layer;
  image.drawn.delete(layer.key);
}

// Of layers with steps: the one that is shown, in both runs.
const stepOf = layer => layer.steps[Math.min(shown.step, layer.steps.length - 1)];

function values(layer) {
  const holder = layer.steps ? stepOf(layer) : layer;
  holder.values ??= decode({ kind: layer.kind, data: holder.data });
  return holder.values;
}

function sized(layer) {
  return layer.steps ? { ...layer, ...stepOf(layer) } : layer;
}

function drawing(image, layer) {
  const key = layer.steps ? `${layer.key} ${shown.step}` : layer.key;
  if (!image.drawn.has(key)) {
    image.drawn.set(key, layer.kind === "map"
      ? drawMap(layer, values(layer), shown.width, shown.height, viridis)
      : drawLabels(sized(layer), values(layer), shown.width, shown.height, palette));
  }
  return image.drawn.get(key);
}

const visible = image => image.layers.filter(layer =>
  ["image", "map", "labels"].includes(layer.kind) && settings[layer.key]?.on);

function draw() {
  paint($("canvas"), shown);
  if (shown.other) {
    paint($("other"), shown.other);
    drawDifference();
  }
  drawLegend();
  readOut();
}

const topLabels = image => visible(image).findLast(layer => layer.kind === "labels");

// Of the uppermost label map, where both runs have it: how much of it differs, and, if wanted, that alone.
function drawDifference() {
  const own = topLabels(shown), theirs = topLabels(shown.other);
  const both = own && own.key === theirs?.key;
  $("share").textContent = "no label map of both runs is on";
  if (!both) return;
  const labels = drawing(shown, own).labels, others = drawing(shown.other, theirs).labels;
  const differs = labels.map((label, at) => label !== others[at]);
  const share = differs.reduce((sum, one) => sum + one, 0) / differs.length;
  $("share").textContent = `${own.name}: ${percent(share)} of the pixels differ`;
  if (!$("differing").checked) return;
  const veil = drawVeil(differs, shown.width, shown.height);
  for (const id of ["canvas", "other"]) $(id).getContext("2d").drawImage(veil, 0, 0);
}

function paint(canvas, image) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, image.width, image.height);
  for (const layer of visible(image)) {
    context.globalAlpha = settings[layer.key].fade ?? FADE[layer.kind];
    context.drawImage(layer.kind === "image" ? image.picture : drawing(image, layer), 0, 0, image.width, image.height);
  }
  context.globalAlpha = 1;
  const top = topLabels(image);
  const pixel = image.width / (canvas.clientWidth || image.width); // of the canvas, for one of the screen
  if (top) nameRegions(context, drawing(image, top).labels, image.width, image.height, state.classes, pixel);
  if (image === shown) editor.paint(context, pixel, image.width, image.height);
}

function drawLegend() {
  const layers = [...visible(shown), ...(shown.other ? visible(shown.other) : [])];
  const present = new Set();
  for (const layer of layers.filter(one => one.kind === "labels")) values(layer).forEach(label => present.add(label));
  const entries = [...present].sort((a, b) => a - b).map(label => {
    const swatch = make("i");
    swatch.style.background = { 0: HATCH, [UNLABELED]: "none" }[label] ?? rgb(palette, label);
    return make("span", {}, swatch, nameOf(label));
  });
  if (layers.some(layer => layer.kind === "map")) {
    const ramp = make("i", { className: "ramp" });
    const stops = [0, 64, 128, 191, 255].map(shade => rgb(viridis, shade));
    ramp.style.background = `linear-gradient(90deg, ${stops.join()})`;
    entries.unshift(make("span", {}, "0 ", ramp, "1"));
  }
  $("legend").replaceChildren(...entries);
}

function listLayers() {
  $("layers").replaceChildren(...shown.layers.map(layer => {
    const key = make("kbd", { textContent: digitOf(layer.key) });
    if (layer.kind === "missing") {
      return make("li", {}, key, make("span", { className: "why", textContent: `${layer.name}: ${layer.why}` }));
    }
    const own = settings[layer.key];
    const box = make("input", { type: "checkbox", checked: own.on, id: `layer-${layer.key}` });
    box.addEventListener("change", () => toggle(layer.key));
    const value = own.fade ?? FADE[layer.kind] ?? FADE.labels;
    const fade = make("input", { type: "range", min: 0, max: 1, step: 0.05, value });
    fade.setAttribute("aria-label", `opacity of ${layer.name}`);
    fade.addEventListener("input", () => { own.fade = Number(fade.value); draw(); });
    const label = make("label", {}, box, ` ${layer.name}`);
    return make("li", {}, key, label, fade);
  }));
}

const kindOf = key => key === "deciding" ? "crf" : key.replace(/^cam.*/, "cam");
const digitOf = key => Object.keys(DIGITS).find(digit => DIGITS[digit] === kindOf(key));

// A digit means the same layer in every image; those of CAMs and CRFs go from one to the next, then to none.
function pressDigit(digit) {
  const layers = shown.layers.filter(layer => digitOf(layer.key) === digit && layer.kind !== "missing");
  const on = layers.findIndex(layer => settings[layer.key].on);
  if (on >= 0) toggle(layers[on].key);
  if (on + 1 < layers.length) toggle(layers[on + 1].key);
}

function toggle(key) {
  settings.chosen = true;
  settings[key].on = !settings[key].on;
  $(`layer-${key}`).checked = settings[key].on;
  draw();
  fetchLater().catch(complain);
}

const at = (layer, x, y) => valueAt(sized(layer), values(layer), x, y, shown.width, shown.height);

// What an image's layers hold under a pixel: label maps that are on or have probabilities, and all maps of numbers.
function told(image, x, y) {
  const parts = [];
  for (const layer of image.layers) {
    if (layer.kind === "map") {
      parts.push(`${layer.name} ${at(layer, x, y).toFixed(2)}`);
    } else if (layer.kind === "labels" && (settings[layer.key]?.on || layer.sure)) {
      const sure = layer.sure ? ` (${layer.sure.name} ${at(layer.sure, x, y).toFixed(2)})` : "";
      parts.unshift(`${layer.name}: ${nameOf(at(layer, x, y))}${sure}`);
    }
  }
  return parts.join(" · ") || "No layer has values here.";
}

function read({ clientX, clientY, currentTarget }) {
  const box = currentTarget.getBoundingClientRect();
  const x = Math.floor((clientX - box.left) * shown.width / box.width);
  const y = Math.floor((clientY - box.top) * shown.height / box.height);
  if (x < 0 || y < 0 || x >= shown.width || y >= shown.height) return;
  shown.pointed = [x, y];
  readOut();
}

// Asked for by `draw` too: layers change under a pointer that rests.
function readOut() {
  if (!shown.pointed) return;
  const [x, y] = shown.pointed;
  $("readout").textContent = shown.other
    ? `${THIS_RUN}: ${told(shown, x, y)}\n${state.other}: ${told(shown.other, x, y)}`
    : told(shown, x, y);
}

// Growth over time

const grownSteps = () => shown.layers.find(layer => layer.key === "grown")?.steps;

function goToStep(step) {
  const steps = grownSteps();
  if (!steps) return;
  shown.step = Math.min(steps.length - 1, Math.max(0, step));
  $("step").value = shown.step;
  $("step-number").textContent = steps[shown.step].step;
}

function stepTo(step) {
  if (!settings.grown.on) toggle("grown");
  goToStep(step);
  draw();
}

function play() {
  if (playing) return stop();
  const steps = grownSteps()?.length;
  if (!steps) return;
  stepTo(0);
  $("play").textContent = "stop";
  playing = setInterval(() => shown.step + 1 < steps ? stepTo(shown.step + 1) : stop(), FRAME);
}

function stop() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "play";
}

// Thresholds

function listThresholds() {
  $("thresholds").replaceChildren(...state.thresholds.map(({ key, steps }, place) => {
    const slider = make("input", { type: "range", id: `slider-${key}`, min: 0, max: steps.length - 1, step: 1 });
    slider.dataset.key = key;
    slider.addEventListener("input", () => move(place, steps[slider.value]));
    const label = make("label", { htmlFor: slider.id, textContent: key });
    return make("div", { className: "threshold" }, label, slider, make("output"));
  }));
}

function showThresholds() {
  const why = state.fixed;
  $("tuning").hidden = !shown.training;
  [...$("thresholds").children].forEach((line, place) => {
    const [, slider, output] = line.children;
    slider.value = state.thresholds[place].steps.indexOf(now[place]);
    slider.disabled = why[place < 2 ? "seeds" : "grow"] !== null;
    output.textContent = now[place];
  });
  const reasons = Object.entries(why).filter(([, reason]) => reason).map(([part, reason]) => `${part}: ${reason}`);
  $("fixed").textContent = reasons.join("; ");
  const changed = now.some((value, place) => value !== before[place]);
  if (!changed) $("command").textContent = "move a threshold";
  $("copy").disabled = $("reset").disabled = !changed;
}

function move(place, value) {
  now[place] = value;
  const key = place < 2 ? "seeds" : "regrown";
  if (settings[key] && !settings[key].on) {
    settings.chosen = settings[key].on = true;
    listLayers();
  }
  showThresholds();
  refresh();
}

let waiting = false, busy = false;

// One question at a time; what was moved meanwhile is asked for next.
async function refresh() {
  waiting = true;
  if (busy) return;
  busy = true;
  try {
    while (waiting) {
      waiting = false;
      await recompute();
    }
  } catch (error) {
    complain(error);
  } finally {
    busy = false;
  }
}

async function recompute() {
  const image = shown;
  if (!image?.training) return;
  const grow = Number(state.fixed.grow === null && GROWING.some(key => settings[key].on));
  const query = new URLSearchParams([...state.thresholds.map(({ key }, place) => [key, now[place]]), ["grow", grow]]);
  const answer = await ask(`${address("/api/live", image.id)}?${query}`);
  for (const key of ["seeds", ...GROWING]) if (answer[key]) replace(image, answer[key]);
  if (image !== shown) return;
  $("took").textContent = `${answer.ms} ms`;
  $("command").textContent = answer.command ?? "move a threshold";
  showCoverage(answer);
  draw();
  $("coverage").dataset.asked = now.join();
  if (answer.counting) setTimeout(() => image === shown && !busy && refresh(), 1500);
}

function showCoverage({ coverage, counted, of, counting }) {
  const lines = [
    ["this image's seeds", coverage.image],
    [counting ? `seeds of ${counted} of ${of} images` : `seeds of all ${counted} images`, coverage.set],
    ["growth of the recorded images", coverage.watched],
  ];
  $("coverage").tBodies[0].replaceChildren(...lines.filter(([, pair]) => pair).map(([name, [old, fresh]]) => {
    const known = old !== null && fresh !== null;
    const change = known ? `${fresh >= old ? "+" : "−"}${Math.abs(100 * (fresh - old)).toFixed(1)}` : "";
    const cells = [name, percent(old), `→ ${percent(fresh)}`, change];
    return make("tr", {}, ...cells.map(text => make("td", { textContent: text })));
  }));
}

function reset() {
  now = [...before];
  showThresholds();
  refresh();
}

async function copy(source, button) {
  try {
    await navigator.clipboard.writeText($(source).textContent);
    $(button).textContent = "copied";
  } catch { // no permission: leave it selected, to be copied by hand
    getSelection().selectAllChildren($(source));
    $(button).textContent = "selected";
  }
  setTimeout(() => { $(button).textContent = "copy"; }, 1500);
}

// From image to image

function neighbor(step) {
  const place = rows.findIndex(row => row.id === shown.id);
  const next = rows[place + step];
  if (next) location.hash = encodeURIComponent(next.id);
  if (rows.length < total && place + step >= rows.length - 2) fill(rows.length).catch(complain);
}

function close() {
  const id = shown?.id;
  stop();
  shown = null;
  delete $("viewer").dataset.ready;
  $("viewer").hidden = true;
  $("gallery").hidden = false;
  fillAhead().catch(complain);
  $("grid").querySelector(`[data-id="${CSS.escape(id ?? "")}"]`)?.focus();
}

function follow() {
  const id = decodeURIComponent(location.hash.slice(1));
  $("problem").hidden = true;
  if (id) open(id).catch(complain);
  else close();
}

function press(event) {
  if (shown && state.edit && editor.press(event)) return event.preventDefault();
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches("input:not([type=checkbox]), select");
  const { key } = event;
  if (key === "Escape") {
    if (shown) location.hash = "";
    else if (inField) event.target.blur();
    return;
  }
  if (inField) return;
  const done = shown ? pressInViewer(key, event.target) : pressInGrid(key);
  if (done) event.preventDefault();
}

function pressInGrid(key) {
  if (key === "/") $("search").focus();
  else if (key.startsWith("Arrow")) moveInGrid(key);
  else return false;
  return true;
}

function pressInViewer(key, target) {
  if (key === "ArrowLeft") neighbor(-1);
  else if (key === "ArrowRight") neighbor(1);
  else if (key === "ArrowUp" || key === "ArrowDown") {
    if ($("time").hidden) return false;
    stepTo(shown.step + (key === "ArrowUp" ? 1 : -1));
  } else if (key === " " && !target.matches("button, summary, input")) play();
  else if (key === "d" && shown.other) $("differing").click();
  else if (key === "/") { location.hash = ""; setTimeout(() => $("search").focus()); }
  else if (key in DIGITS) pressDigit(key);
  else return false;
  return true;
}

async function start() {
  state = await ask("/api/state");
  [palette, viridis] = [state.palette, state.viridis].map(data => decode({ data }));
  before = state.thresholds.map(({ value }) => value);
  now = [...before];
  settings = {};
  $("tag").append(...state.classes.slice(1).map(name => make("option", { value: name, textContent: name })));
  $("split").append(...Object.entries(state.splits).map(([name, count]) =>
    make("option", { value: name, textContent: `${name} (${count})` })));
  $("sort").append(...state.sorts.map(name => make("option", { value: name, textContent: MEANING[name] })));
  $("order").value = "ascending";
  $("missing").replaceChildren(...state.missing.map(text => make("li", { textContent: text })));
  listThresholds();
  editor = new Editor({
    classes: state.classes, edit: state.edit, colorOf: label => rgb(palette, label), copy, complain,
    changed: () => hasSeeds() && refresh(), redraw: () => shown && draw(),
  });
  addEventListener("focus", () => editor.reload().catch(complain)); // another window may have set points

  const again = () => { scrollTo(0, 0); fill().catch(complain); };
  $("sort").addEventListener("change", () => { $("order").value = FIRST[$("sort").value] ?? "ascending"; });
  for (const id of ["tag", "split", "sort", "order", "seeded"]) $(id).addEventListener("change", again);
  let typed;
  $("search").addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(again, 150); });
  $("filters").addEventListener("submit", event => event.preventDefault());
  addEventListener("scroll", () => fillAhead().catch(complain), { passive: true });
  $("back").addEventListener("click", () => { location.hash = ""; });
  $("previous").addEventListener("click", () => neighbor(-1));
  $("next").addEventListener("click", () => neighbor(1));
  for (const id of ["canvas", "other"]) {
    $(id).addEventListener("pointermove", read);
    $(id).addEventListener("pointerdown", read);
  }
  $("differing").addEventListener("change", draw);
  $("step").addEventListener("input", () => stepTo(Number($("step").value)));
  $("play").addEventListener("click", play);
  $("copy").addEventListener("click", () => copy("command", "copy"));
  $("reset").addEventListener("click", reset);
  addEventListener("keydown", press);
  addEventListener("hashchange", follow);
  addEventListener("resize", () => shown ? draw() : fillAhead().catch(complain));
  await fill();
  if (location.hash.length > 1) follow();
}

start().catch(complain);
