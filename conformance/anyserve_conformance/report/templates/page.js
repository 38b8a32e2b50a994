"use strict";
(() => {
  const form = document.getElementById("filters");
  const items = [...document.querySelectorAll("[data-outcome]")];
  const total = document.querySelectorAll("tr.case").length;
  const keys = ["run", "outcome", "area", "profile", "keyword"].filter((key) => form.elements[key]);
  const texts = new Map();

  const at = (hash) => {
    try {
      return document.getElementById(decodeURIComponent(hash.slice(1)));
    } catch {
      return null; // typed by hand, not one of this page's links
    }
  };

  // A row of the table is also found by its requirement, which stands above it, and by all that is told of it elsewhere.
  const textOf = (item) => {
    if (!texts.has(item)) {
      let words = item.textContent;
      if (item.matches("tr")) {
        const told = item.querySelector("a[href]");
        words += `\n${item.parentElement.rows[0].textContent}\n${told ? at(told.hash).textContent : ""}`;
      }
      texts.set(item, words.toLowerCase());
    }
    return texts.get(item);
  };

  const apply = () => {
    const chosen = keys.filter((key) => form.elements[key].value);
    const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of items) {
      item.hidden = !chosen.every((key) => item.dataset[key] === form.elements[key].value)
        || !words.every((word) => textOf(item).includes(word));
    }
    for (const group of document.querySelectorAll("tbody.requirement, section.findings")) {
      group.hidden = !group.querySelector("[data-outcome]:not([hidden])");
    }
    for (const area of document.querySelectorAll("tbody.area")) {
      let next = area.nextElementSibling;
      while (next && next.hidden) next = next.nextElementSibling;
      area.hidden = !next || next.matches(".area");
    }
    for (const section of document.querySelectorAll("section.findings")) {
      const shown = section.querySelectorAll(".finding:not([hidden])").length;
      const all = section.querySelectorAll(".finding").length;
      section.querySelector(".number").textContent = shown === all ? all : `${shown} of ${all}`;
    }
    const shown = document.querySelectorAll("tr.case:not([hidden])").length;
    const filtered = chosen.length > 0 || words.length > 0;
    const cases = total === 1 ? "case" : "cases";
    form.querySelector("output").textContent = filtered ? `${shown} of ${total} ${cases}` : `${total} ${cases}`;
    form.querySelector("button").hidden = !filtered;
    document.getElementById("nothing").hidden = shown > 0;
  };

  const set = (data) => {
    form.reset();
    for (const key of keys) {
      const value = data[`set${key[0].toUpperCase()}${key.slice(1)}`];
      if (value !== undefined) form.elements[key].value = value;
    }
    apply();
  };

  // A link to a case shows it, whatever is filtered or folded.
  const reveal = () => {
    const target = at(location.hash);
    if (!target || !target.matches("[data-outcome]")) return;
    if (target.hidden) {
      form.reset();
      apply();
    }
    if (target.matches("details")) target.open = true;
    target.scrollIntoView();
  };

  const foldButton = (section) => {
    const button = section.querySelector("button.fold");
    const all = [...section.querySelectorAll(".finding")];
    const label = () => { button.textContent = all.some((one) => one.open) ? "Fold all" : "Unfold all"; };
    button.addEventListener("click", () => {
      const open = !all.some((one) => one.open);
      for (const one of all) one.open = open;
      label();
    });
    for (const one of all) one.addEventListener("toggle", label);
    button.hidden = false;
    label();
  };

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  for (const link of document.querySelectorAll("[data-set-area], [data-set-outcome]")) {
    link.addEventListener("click", () => set(link.dataset));
  }
  document.querySelectorAll("section.findings").forEach(foldButton);
  addEventListener("hashchange", reveal);

  const differing = document.getElementById("differing");
  if (differing) {
    const narrow = () => {
      for (const row of document.querySelectorAll(".matrix tbody tr:not(.arearow)")) {
        row.hidden = differing.checked && !("differs" in row.dataset);
      }
      for (const area of document.querySelectorAll(".matrix tbody")) {
        area.hidden = !area.querySelector("tr:not(.arearow):not([hidden])");
      }
    };
    differing.addEventListener("change", narrow);
    differing.parentElement.hidden = false;
    narrow(); // a browser may restore the checkbox
  }

  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details.finding:not([open]), details.about:not([open])")];
    for (const one of unfolded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of unfolded) one.open = false; });

  form.hidden = false;
  apply();
  reveal();
})();
