// Points and strokes: set by hand over an image, kept by the server in the table of points.

import { $, address, ask, make } from "./dom.js";
import { BACKGROUND, ERASE, inWords, paintCross, paintMark } from "./marks.js";
import { Outbox } from "./outbox.js";

const KEYS = "qwertyuiop"; // of the image's tags, in their order
const MOVED = 4; // pixels of the screen after which a press is a stroke
const LISTED = 100; // marks or changes that are listed, the newest first
const STEPS = 40; // presses of an arrow from side to side
const FIRST = "choose a class first";

export class Editor {
  // classes: names with background first; edit: {file, why} of the server's state, null without --edit; colorOf: of a
  // label, for CSS. changed(): the server has new marks; redraw(): what is drawn has changed; complain(error).
  constructor({ classes, edit, colorOf, copy, changed, redraw, complain }) {
    Object.assign(this, { classes, edit, colorOf, changed, redraw });
    this.image = null; // {id, width, height, tags, marks, training}
    this.tool = null; // name of a class, background or erase
    this.radius = 0; // pixels of the image
    this.cancel();
    if (!edit) return;
    this.outbox = new Outbox({
      file: edit.file, say: words => { $("saved").textContent = words; },
      saved: (id, marks) => this.saved(id, marks),
      refused: error => { complain(error); this.show(); },
    });
    const canvas = $("canvas");
    canvas.addEventListener("pointerdown", event => this.down(event));
    canvas.addEventListener("pointermove", event => this.move(event));
    canvas.addEventListener("pointerup", event => this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("mousedown", event => this.active && event.preventDefault()); // arrows keep changing images
    $("radius").addEventListener("input", () => this.setRadius(Number($("radius").value)));
    $("other-class").addEventListener("change", () => this.choose($("other-class").value || null));
    $("undo").addEventListener("click", () => this.undo());
    $("copy-remake").addEventListener("click", () => copy("remake", "copy-remake"));
    this.outbox.say(edit.why === null ? `into ${edit.file}` : "");
    this.outbox.send();
  }

  get active() {
    return Boolean(this.edit && this.image?.training && this.edit.why === null);
  }

  get marks() {
    return this.outbox ? this.outbox.withUnsent(this.image.id, this.image.marks) : this.image.marks;
  }

  open(image) {
    this.image = image;
    this.cross = null; // where the keyboard is, in pixels of the image
    this.cancel();
    const usual = [BACKGROUND, ERASE, ...image.tags.map(label => this.classes[label])];
    if (!usual.includes(this.tool)) this.tool = null;
    $("radius").max = Math.max(20, Math.round(Math.max(image.width, image.height) / 4));
    document.body.classList.toggle("edit", this.active);
    this.setRadius(Math.min(this.radius, $("radius").max));
    this.show();
  }

  // Marks of the same image that another window set.
  async reload() {
    if (!this.image?.training || this.outbox?.sending) return;
    const asked = this.image;
    const { marks } = await ask(address("/api/image", asked.id)).catch(() => asked);
    if (asked === this.image && JSON.stringify(marks) !== JSON.stringify(asked.marks)) this.saved(asked.id, marks);
  }

  saved(id, marks) {
    if (this.image?.id === id) {
      this.image.marks = marks;
      this.changed();
    }
    this.show();
  }

  change(add, remove) {
    this.outbox.change(this.image.id, add, remove);
    this.show();
  }

  undo() {
    this.outbox.undo(this.image.id);
    this.show();
  }

  choose(name) {
    this.tool = name;
    this.show();
  }

  setRadius(radius) {
    this.radius = radius;
    $("radius").value = radius;
    $("radius-value").textContent = radius ? `${radius} px` : "1 cell";
    this.redraw();
  }

  // By mouse and touch

  inside([x, y]) {
    const limited = (value, most) => Math.round(10 * Math.min(most, Math.max(0, value))) / 10;
    return [limited(x, this.image.width), limited(y, this.image.height)];
  }

  place({ clientX, clientY }) {
    const box = $("canvas").getBoundingClientRect();
    const along = (clientX - box.left) / box.width, down = (clientY - box.top) / box.height;
    return this.inside([along * this.image.width, down * this.image.height]);
  }

  down(event) {
    if (!this.active) return;
    if (this.pointer !== null || event.button > 0) return this.cancel();
    if (this.tool === null) return this.outbox.say(FIRST);
    this.pointer = event.pointerId;
    this.from = [event.clientX, event.clientY];
    this.path = [this.place(event)];
    $("canvas").setPointerCapture(this.pointer);
    this.redraw();
  }

  move(event) {
    if (event.pointerId !== this.pointer || !this.path) return;
    const moved = Math.hypot(event.clientX - this.from[0], event.clientY - this.from[1]);
    if (this.path.length === 1 && moved < MOVED) return;
    const next = this.place(event), [x, y] = this.path.at(-1);
    if (Math.hypot(next[0] - x, next[1] - y) < 1) return; // within a pixel
    this.path.push(next);
    this.redraw();
  }

  up(event) {
    if (event.pointerId === this.pointer && this.path) this.finish();
  }

  finish() {
    const path = this.path;
    this.cancel();
    this.change([{ class: this.tool, radius: this.radius, path }], []);
  }

  // Give up what is being drawn -> whether anything was.
  cancel() {
    const drawing = Boolean(this.path);
    this.path = this.pointer = null; // being drawn, and by which pointer; none: by keys
    if (drawing) this.redraw();
    return drawing;
  }

  // By keys -> whether the key was one of these

  press(event) {
    if (!this.active) return false;
    const { key, target } = event, held = event.ctrlKey || event.metaKey;
    if (held && key === "z") return this.undo(), true;
    if (held || event.altKey) return false;
    if (key === "Escape") return this.cancel();
    if (target.matches("input:not([type=checkbox]), select, button, summary, a") && key.length > 1) return false;
    const own = this.image.tags[KEYS.indexOf(key)];
    if (own !== undefined) this.choose(this.classes[own]);
    else if (key === "b") this.choose(BACKGROUND);
    else if (key === "x") this.choose(ERASE);
    else if (key === "z") this.undo();
    else if (key === "[") this.setRadius(Math.max(0, this.radius - 1));
    else if (key === "]") this.setRadius(Math.min($("radius").max, this.radius + 1));
    else return target === $("canvas") && this.pressOnCanvas(event);
    return true;
  }

  pressOnCanvas({ key, shiftKey }) {
    const { width, height } = this.image, step = shiftKey ? 1 : Math.max(1, Math.max(width, height) / STEPS);
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[key];
    const [x, y] = this.cross ?? this.inside([width / 2, height / 2]);
    const byKeys = this.path && this.pointer === null;
    if (way) {
      this.cross = this.cross ? this.inside([x + way[0], y + way[1]]) : [x, y];
      if (byKeys) this.path.push(this.cross);
    } else if (key !== "Enter" && key !== "l") {
      return false;
    } else if (this.tool === null) {
      this.outbox.say(FIRST);
    } else if (byKeys) {
      this.finish();
    } else {
      this.path = [[x, y]];
      if (key === "Enter") this.finish();
    }
    this.redraw();
    return true;
  }

  // The panel

  show() {
    const hidden = !this.edit || !this.image?.training;
    $("editing").hidden = hidden;
    if (!hidden) {
      $("read-only").textContent = this.edit.why === null ? "" : `Nothing can be set: ${this.edit.why}`;
      this.showTools();
      this.showMarks();
      this.showChanges();
    }
    this.redraw();
  }

  showTools() {
    const own = this.image.tags.map((label, place) => [this.classes[label], KEYS[place] ?? "", this.colorOf(label)]);
    const tools = [...own, [BACKGROUND, "b", "#000"], [ERASE, "x", "none"]];
    $("tools").replaceChildren(...tools.map(([name, key, color]) => {
      const swatch = make("i");
      swatch.style.background = color;
      const properties = { type: "button", disabled: !this.active, ariaPressed: name === this.tool };
      const button = make("button", properties, swatch, name, " ", make("kbd", { textContent: key }));
      button.dataset.class = name;
      button.addEventListener("click", () => this.choose(name));
      return button;
    }));
    const others = this.classes.slice(1).filter(name => !own.some(([known]) => known === name));
    const options = others.map(name => make("option", { value: name, textContent: name }));
    $("other-class").replaceChildren(make("option", { value: "", textContent: "..." }), ...options);
    const isOther = others.includes(this.tool);
    $("other-class").value = isOther ? this.tool : "";
    $("others").hidden = !others.length;
    for (const id of ["other-class", "radius"]) $(id).disabled = !this.active;
    $("tag-note").textContent = isOther
      ? `${this.tool} is no tag of this image: its first point adds it, and its CAM comes with the command below` : "";
  }

  showMarks() {
    const { marks } = this;
    $("marks").replaceChildren(...marks.slice(-LISTED).reverse().map(mark => {
      const button = make("button", { type: "button", textContent: "remove", disabled: !this.active });
      button.setAttribute("aria-label", `remove ${inWords(mark)}`);
      button.addEventListener("click", () => this.change([], [mark]));
      return make("li", {}, make("span", { textContent: inWords(mark) }), button);
    }));
    const more = marks.length > LISTED ? `, the newest ${LISTED} of them below` : "";
    $("marks-count").textContent = `${marks.length} point${marks.length === 1 ? "" : "s"} and strokes here${more}`;
    $("undo").disabled = !this.active || !this.outbox.last(this.image.id);
  }

  // Of all images, by this window.
  showChanges() {
    const { done } = this.outbox;
    $("changes").replaceChildren(...done.slice(-LISTED).reverse().map(({ id, add, remove }) => {
      const words = [...add.map(mark => `+ ${inWords(mark)}`), ...remove.map(mark => `− ${inWords(mark)}`)];
      return make("li", {}, make("a", { href: `#${encodeURIComponent(id)}`, textContent: id }), make("span", {
        textContent: words.join("; "),
      }));
    }));
    $("changes-count").textContent = `${done.length} change${done.length === 1 ? "" : "s"} by this window`;
  }

  // Onto the canvas, of width x height; `pixel`: how many of its pixels lie in one of the screen's.
  paint(context, pixel, width, height) {
    if (!this.image?.training) return;
    const scale = [width / this.image.width, height / this.image.height];
    const drawn = this.path ? [{ class: this.tool, radius: this.radius, path: this.path }] : [];
    const fixed = { [ERASE]: "#fff", [BACKGROUND]: "#000" };
    for (const mark of [...this.marks, ...drawn]) {
      const color = fixed[mark.class] ?? this.colorOf(this.classes.indexOf(mark.class));
      paintMark(context, mark, color, scale, pixel);
    }
    if (this.cross) paintCross(context, this.cross, scale, pixel);
  }
}
