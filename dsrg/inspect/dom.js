// What all parts of the page use.

export const $ = id => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const address = (start, id) => `${start}/${encodeURIComponent(id)}`;

// The server's answer. Throws an Error with its words, and its status, where it refuses.
export async function ask(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response.json();
  const isJson = response.headers.get("Content-Type").includes("json");
  const problem = isJson ? (await response.json()).problem : await response.text();
  throw Object.assign(new Error(problem), { status: response.status });
}
