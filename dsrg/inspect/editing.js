// Points and strokes: set by hand over an image, kept by the server in the table of points.

const KEYS = "qwrtyuiop"; // of the image's tags, in their order
const MOVED = 4; // pixels of the screen after which a press is a stroke
const RETRY = 3000; // milliseconds after which what could not be saved is sent again
const LISTED = 100; // marks of an image that are listed, the newest first
const STEPS = 40; // presses of an arrow from side to side
const ERASE = "erase", BACKGROUND = "background";
const $ = id => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const kept = key => JSON.parse(sessionStorage.getItem(key) ?? "[]"); // by this tab, also when it is loaded again
const keep = (key, value) => sessionStorage.setItem(key, JSON.stringify(value));
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

// classes: names with background first; edit: {file, why} of the server's state; colorOf: of a label, for CSS.
// changed(): after the server has new marks; redraw(): what is drawn has changed.
export function createEditor({ classes, edit, colorOf, copy, changed, redraw, complain }) {
  const token = new URLSearchParams(location.search).get("token") ?? "";
  let image = null; // {id, width, height, tags, marks, training}
  let tool = null; // name of a class, background or erase
  let radius = 0; // pixels of the image
  let stroke = null; // the path that is being drawn
  let pressed = null; // the pointer that draws
  let cursor = null; // where the keyboard is, in pixels of the image
  let byKeys = false; // whether the stroke is drawn by keys
  let sending = false;
  let unsent = kept("unsent"); // changes that the server has not got yet: {id, add, remove, undone}
  let done = kept("done"); // changes that can be undone, in their order

  const active = () => edit && image?.training && edit.why === null;

  function place(event) {
    const box = $("canvas").getBoundingClientRect();
    const along = (event.clientX - box.left) / box.width, down = (event.clientY - box.top) / box.height;
    return inside([along * image.width, down * image.height]);
  }

  function inside([x, y]) {
    const limited = (value, most) => Math.round(10 * Math.min(most, Math.max(0, value))) / 10;
    return [limited(x, image.width), limited(y, image.height)];
  }

  // Sending: one change after the other; what fails stays, also in the tab's memory, and is sent again.

  function change(add, remove, undone = false) {
    unsent.push({ id: image.id, add, remove, undone });
    keep("unsent", unsent);
    show();
    send().catch(complain);
  }

  async function send() {
    if (sending || !unsent.length) return;
    sending = true;
    try {
      while (unsent.length) {
        say("saving ...");
        if (!await sendOne(unsent[0])) return;
        unsent.shift();
        keep("unsent", unsent);
      }
      say(`saved in ${edit.file}`);
    } finally {
      sending = false;
      show();
    }
    changed();
  }

  async function sendOne({ id, add, remove, undone }) {
    let response, problem;
    try {
      response = await fetch(`/api/points/${encodeURIComponent(id)}`, {
        method: "POST", headers: { "X-Token": token }, body: JSON.stringify({ add, remove }),
      });
    } catch {
      later("the server does not answer");
      return false;
    }
    const isJson = response.headers.get("Content-Type").includes("json");
    const answer = isJson ? await response.json() : { problem: await response.text() };
    if (response.status === 403 || response.status >= 500) {
      later(answer.problem);
      return false;
    }
    if (!response.ok) { // it will be refused again: said, and not kept
      complain(new Error(answer.problem));
      return true;
    }
    if (!undone) {
      done.push({ id, add: answer.added, remove });
      keep("done", done);
    }
    if (image?.id === id) Object.assign(image, { marks: answer.marks, added: answer.tags });
    return true;
  }

  function later(why) {
    say(`${unsent.length} not saved yet: ${why}`);
    setTimeout(() => send().catch(complain), RETRY);
  }

  function undo() {
    const last = done.findLastIndex(one => one.id === image.id);
    if (last < 0) return;
    const [{ add, remove }] = done.splice(last, 1);
    keep("done", done);
    change(remove, add, true);
  }

  // What is there: the server's marks, with what it has not got yet.

  function marks() {
    let found = [...image.marks];
    for (const { id, add, remove } of unsent) {
      if (id !== image.id) continue;
      for (const mark of remove) {
        const at = found.findLastIndex(one => same(one, mark));
        if (at >= 0) found.splice(at, 1);
      }
      found = found.concat(add);
    }
    return found;
  }

  // Drawing by pointer

  function down(event) {
    if (!active()) return;
    if (pressed !== null || event.button > 0) return cancel();
    if (tool === null) return say("choose a class first");
    pressed = event.pointerId;
    stroke = [place(event)];
    stroke.from = [event.clientX, event.clientY];
    $("canvas").setPointerCapture(pressed);
    redraw();
  }

  function move(event) {
    if (event.pointerId !== pressed || !stroke) return;
    const away = Math.hypot(event.clientX - stroke.from[0], event.clientY - stroke.from[1]);
    const next = place(event), [x, y] = stroke.at(-1);
    if (stroke.length === 1 && away < MOVED) return;
    if (Math.hypot(next[0] - x, next[1] - y) < 1) return; // within a pixel
    stroke.push(next);
    redraw();
  }

  function up(event) {
    if (event.pointerId !== pressed) return;
    pressed = null;
    if (stroke) finish();
  }

  function finish() {
    const path = stroke.map(one => [...one]);
    stroke = null;
    byKeys = false;
    change([{ class: tool, radius, path }], []);
  }

  function cancel() {
    const was = stroke !== null;
    stroke = pressed = null;
    byKeys = false;
    redraw();
    return was;
  }

  // By keys

  function press(event) {
    const { key } = event;
    if (!active()) return false;
    if ((event.ctrlKey || event.metaKey) && key === "z") return undo(), true;
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (key === "Escape") return cancel();
    if (event.target.matches("input:not([type=checkbox]), select, button, summary") && key.length > 1) return false;
    const own = KEYS.indexOf(key);
    if (own >= 0 && own < image.tags.length) choose(classes[image.tags[own]]);
    else if (key === "b") choose(BACKGROUND);
    else if (key === "x") choose(ERASE);
    else if (key === "z") undo();
    else if (key === "[" || key === "]") widen(key === "]" ? 1 : -1);
    else if (event.target === $("canvas")) return pressOnCanvas(event);
    else return false;
    return true;
  }

  function pressOnCanvas({ key, shiftKey }) {
    const [x, y] = cursor ?? [image.width / 2, image.height / 2];
    const step = shiftKey ? 1 : Math.max(1, Math.max(image.width, image.height) / STEPS);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (key in moves) {
      cursor = cursor ? inside([x + moves[key][0], y + moves[key][1]]) : inside([x, y]);
      if (byKeys) stroke.push(cursor);
    } else if (tool === null && (key === "Enter" || key === "l")) {
      say("choose a class first");
    } else if (key === "Enter") {
      if (byKeys) finish();
      else change([{ class: tool, radius, path: [inside([x, y])] }], []);
    } else if (key === "l") {
      if (byKeys) finish();
      else [byKeys, cursor, stroke] = [true, inside([x, y]), [inside([x, y])]];
    } else {
      return false;
    }
    redraw();
    return true;
  }

  function widen(step) {
    const slider = $("radius");
    slider.value = Number(slider.value) + step;
    setRadius();
  }

  function setRadius() {
    radius = Number($("radius").value);
    $("radius-value").textContent = radius ? `${radius} px` : "one cell";
    redraw();
  }

  // The panel

  const say = text => { $("saved").textContent = text; };

  function choose(name) {
    tool = name;
    show();
  }

  function showTools() {
    const own = image.tags.map((label, place) => [classes[label], KEYS[place] ?? "", colorOf(label)]);
    const tools = [...own, [BACKGROUND, "b", "#000"], [ERASE, "x", "none"]];
    $("tools").replaceChildren(...tools.map(([name, key, color]) => {
      const swatch = make("i");
      swatch.style.background = color;
      const button = make("button", { type: "button" }, swatch, name, " ", make("kbd", { textContent: key }));
      button.dataset.class = name;
      button.setAttribute("aria-pressed", tool === name);
      button.disabled = edit.why !== null;
      button.addEventListener("click", () => choose(name));
      return button;
    }));
    const others = classes.slice(1).filter(name => !own.some(([known]) => known === name));
    $("other-class").replaceChildren(make("option", { value: "", textContent: "..." }),
      ...others.map(name => make("option", { value: name, textContent: name })));
    $("other-class").value = others.includes(tool) ? tool : "";
    $("others").hidden = !others.length;
    $("other-class").disabled = $("radius").disabled = edit.why !== null;
    $("tag-note").textContent = others.includes(tool) ? `${tool} is no tag of this image: its first point adds it` : "";
  }

  const at = ([x, y]) => `${Math.round(x)}, ${Math.round(y)}`;
  const told = ({ class: name, path, radius: wide }) =>
    `${name}, ${path.length > 1 ? `stroke from ${at(path[0])} to ${at(path.at(-1))}` : at(path[0])}${wide ? `, radius ${wide}` : ""}`;

  function showMarks() {
    const found = marks(), newest = found.slice(-LISTED).reverse();
    $("marks").replaceChildren(...newest.map(mark => {
      const button = make("button", { type: "button", textContent: "remove", disabled: edit.why !== null });
      button.setAttribute("aria-label", `remove ${told(mark)}`);
      button.addEventListener("click", () => change([], [mark]));
      return make("li", {}, make("span", { textContent: told(mark) }), button);
    }));
    const more = found.length > LISTED ? `, the newest ${LISTED} of them below` : "";
    $("marks-count").textContent = `${found.length} point${found.length === 1 ? "" : "s"} and strokes here${more}`;
    $("undo").disabled = edit.why !== null || !done.some(one => one.id === image.id);
  }

  function show() {
    $("editing").hidden = !edit || !image?.training;
    if ($("editing").hidden) return redraw();
    $("read-only").textContent = edit.why === null ? "" : `Nothing can be set: ${edit.why}`;
    showTools();
    showMarks();
    redraw();
  }

  function open(shown) {
    cancel();
    image = shown;
    cursor = null;
    const usual = [BACKGROUND, ERASE, ...image.tags.map(label => classes[label])];
    if (!usual.includes(tool)) tool = null;
    if (edit) $("radius").max = Math.max(20, Math.round(Math.max(image.width, image.height) / 4));
    document.body.classList.toggle("edit", Boolean(active()));
    setRadius();
    show();
  }

  // Marks of the same image that another window set.
  async function reload() {
    if (!image?.training || sending) return;
    const asked = image;
    const response = await fetch(`/api/image/${encodeURIComponent(asked.id)}`).catch(() => null);
    const answer = response?.ok ? await response.json() : null;
    if (!answer || asked !== image || same(answer.marks, image.marks)) return;
    image.marks = answer.marks;
    show();
    changed();
  }

  // Marks on a canvas of width x height; `pixel`: how many of its pixels lie in one of the screen's.
  function paint(context, pixel, width, height) {
    if (!image?.training) return;
    const scale = [width / image.width, height / image.height];
    for (const mark of marks()) paintMark(context, mark, scale, pixel);
    if (stroke) paintMark(context, { class: tool, radius, path: stroke }, scale, pixel);
    if (cursor) paintCursor(context, scale, pixel);
  }

  function paintMark(context, { class: name, radius: wide, path }, [fx, fy], pixel) {
    const color = name === ERASE ? "#fff" : name === BACKGROUND ? "#000" : colorOf(classes.indexOf(name));
    const [[x, y]] = path, size = 5 * pixel;
    const line = (width, style) => {
      Object.assign(context, { lineWidth: width, strokeStyle: style, lineCap: "round", lineJoin: "round" });
      context.stroke();
    };
    context.setLineDash(name === ERASE ? [4 * pixel, 4 * pixel] : []);
    context.beginPath();
    if (path.length > 1) {
      path.forEach(([px, py], k) => context[k ? "lineTo" : "moveTo"](px * fx, py * fy));
      if (wide) {
        context.globalAlpha = 0.35;
        line(2 * wide * fx, color);
        context.globalAlpha = 1;
      }
      line(6 * pixel, "#fff");
      line(3 * pixel, name === ERASE ? "#000" : color);
    } else {
      if (wide) {
        context.ellipse(x * fx, y * fy, wide * fx, wide * fy, 0, 0, 2 * Math.PI);
        line(3 * pixel, "#fff");
        line(1.5 * pixel, name === ERASE ? "#000" : color);
        context.beginPath();
      }
      context.setLineDash([]);
      context.arc(x * fx, y * fy, size, 0, 2 * Math.PI);
      context.fillStyle = color;
      context.fill();
      line(3 * pixel, "#000");
      line(1.5 * pixel, "#fff");
    }
    context.setLineDash([]);
  }

  function paintCursor(context, [fx, fy], pixel) {
    const [x, y] = [cursor[0] * fx, cursor[1] * fy], arm = 12 * pixel;
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
    for (const [width, style] of [[4, "#fff"], [2, "#d00"]]) {
      Object.assign(context, { lineWidth: width * pixel, strokeStyle: style });
      context.stroke();
    }
  }

  if (edit) {
    const canvas = $("canvas");
    canvas.addEventListener("pointerdown", down);
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", cancel);
    canvas.addEventListener("mousedown", event => active() && event.preventDefault()); // arrows go on to other images
    $("radius").addEventListener("input", setRadius);
    $("other-class").addEventListener("change", () => choose($("other-class").value || null));
    $("undo").addEventListener("click", undo);
    $("copy-remake").addEventListener("click", () => copy("remake", "copy-remake"));
    say(edit.why === null ? `into ${edit.file}` : "");
    send().catch(complain);
  }

  return { open, paint, press, reload };
}
