// Changes of points on their way to the server: one after the other, kept by this tab until they are saved.

import { address, ask } from "./dom.js";

const RETRY = 3000; // milliseconds after which what could not be saved is sent again

const kept = key => JSON.parse(sessionStorage.getItem(key) ?? "[]"); // also when the page is loaded again
const keep = (key, value) => sessionStorage.setItem(key, JSON.stringify(value));
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

export class Outbox {
  // file: the table's name; say(words): how saving goes; saved(id, answer): the server has a change; refused(error).
  constructor({ file, say, saved, refused }) {
    Object.assign(this, { file, say, saved, refused, sending: false });
    this.token = new URLSearchParams(location.search).get("token") ?? "";
    this.unsent = kept("unsent"); // {id, add, remove, key}
    this.done = kept("done"); // what can be undone, in its order, saved or not: as in unsent
  }

  change(id, add, remove) {
    const change = { id, add, remove, key: Math.random() }; // its undoing has the same key
    this.done.push(change);
    this.queue(change);
  }

  queue(change) {
    this.unsent.push(change);
    this.keep();
    this.send();
  }

  keep() {
    keep("unsent", this.unsent);
    keep("done", this.done);
  }

  // The last change of an image that is not undone yet.
  last(id) {
    return this.done.findLast(one => one.id === id);
  }

  undo(id) {
    const last = this.last(id);
    if (!last) return;
    this.done.splice(this.done.lastIndexOf(last), 1);
    this.queue({ id, add: last.remove, remove: last.add, key: last.key });
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    while (this.unsent.length) {
      this.say("saving ...");
      if (!await this.sendOne(this.unsent[0])) break;
    }
    this.sending = false;
  }

  // Whether it is settled: saved, or refused for good.
  async sendOne({ id, add, remove, key }) {
    let answer = null, refusal = null;
    try {
      const body = JSON.stringify({ add, remove });
      answer = await ask(address("/api/points", id), { method: "POST", headers: { "X-Token": this.token }, body });
    } catch (error) {
      if (!error.status || error.status === 403 || error.status >= 500) {
        this.say(`${this.unsent.length} not saved yet: ${error.status ? error.message : "the server does not answer"}`);
        setTimeout(() => this.send(), RETRY);
        return false;
      }
      refusal = error;
    }
    this.unsent.shift();
    if (!answer) for (const name of ["unsent", "done"]) this[name] = this[name].filter(one => one.key !== key);
    this.keep();
    if (!this.unsent.length) this.say(answer ? `saved in ${this.file}` : "not saved");
    if (answer) this.saved(id, answer.marks);
    else this.refused(refusal);
    return true;
  }

  // An image's marks as the server knows them, with what it has not got yet.
  withUnsent(id, marks) {
    let found = [...marks];
    for (const { add, remove } of this.unsent.filter(one => one.id === id)) {
      for (const mark of remove) {
        const place = found.findLastIndex(one => same(one, mark));
        if (place >= 0) found.splice(place, 1);
      }
      found = found.concat(add);
    }
    return found;
  }
}
