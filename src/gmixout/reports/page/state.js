"use strict";
// What the reader chose: methods by their switches, everything else by elements marked data-keep.
// It outlives a reload (a running comparison loads its page anew), not the tab.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const all = selector => [...document.querySelectorAll(selector)];
const store = "gmixout:" + location.pathname;
const switches = all("#methods input");
const kept = all("[data-keep]");
const drawings = [];

const isShown = group => switches[group].checked;
const isChecked = id => $(id) ? $(id).checked : false;

function pick(wanted) {
  switches.forEach((box, group) => { box.checked = wanted(box, group); });
  update();
}

// one method alone; asked for again, all of them
function only(group) {
  const alone = switches.every((box, index) => box.checked === (index === group));
  pick((box, index) => alone || index === group);
}

function save() {
  const off = switches.filter(box => !box.checked).map(box => box.dataset.key);
  const values = Object.fromEntries(kept.map(each => [each.id, each.type === "checkbox" ? each.checked : each.value]));
  try { sessionStorage.setItem(store, JSON.stringify({off, values, scroll: scrollY})); } catch { /* storage is switched off */ }
}

function read() {
  try { return JSON.parse(sessionStorage.getItem(store)) ?? {off: [], values: {}}; } catch { return {off: [], values: {}}; }
}

const saved = read();
// a running comparison loads its page anew: the reader stays where they read
const isRunning = Boolean(document.querySelector("[http-equiv=refresh]"));
if (isRunning) addEventListener("pagehide", save);

function restore() {
  for (const box of switches) box.checked = !saved.off.includes(box.dataset.key);
  for (const each of kept) setTo(each, saved.values[each.id]);
}

function setTo(element, value) {
  if (value === undefined) return;
  if (element.type === "checkbox") element.checked = value;
  else if (element.tagName !== "SELECT" || [...element.options].some(option => option.value === value)) element.value = value;
}

// the choices of a drop-down list that depend on another one
function offer(element, names) {
  const before = element.options.length ? element.value : saved.values[element.id];
  element.replaceChildren(...names.map(([value, name]) => new Option(name, value)));
  setTo(element, before);
}

// what is drawn belongs to the section of its element, and so do the choices beside it
function draws(element, draw) {
  if (element) drawings.push({section: element.closest("section"), draw});
}

function update(section) {
  save();
  for (const drawing of drawings) if (!section || drawing.section === section) drawing.draw();
}

switches.forEach(box => box.addEventListener("change", () => update()));
kept.forEach(each => each.addEventListener("input", () => update(each.closest("section"))));
all("[data-only]").forEach(button => button.addEventListener("click", () => only(Number(button.dataset.only))));
const wanted = {all: () => true, none: () => false, main: box => "main" in box.dataset};
all("[data-pick]").forEach(button => button.addEventListener("click", () => pick(wanted[button.dataset.pick])));
