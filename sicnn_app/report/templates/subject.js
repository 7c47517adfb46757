"use strict";
// Without this program everything can still be read: it unfolds what a link leads to, and saves ratings.

function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const part = target && target.closest("details");
  if (part) {
    part.open = true;
    // Again where the browser has unfolded it by itself: what it scrolled to may have moved meanwhile.
    target.scrollIntoView();
  }
}
window.addEventListener("hashchange", reveal);
reveal();

const unfold = document.getElementById("unfold");
unfold.hidden = false;
unfold.firstElementChild.addEventListener("click", ({ target }) => {
  const parts = [...document.querySelectorAll("details.part")];
  const open = parts.some((part) => !part.open);
  parts.forEach((part) => { part.open = open; });
  target.textContent = open ? "Fold all" : "Unfold all";
});

for (const form of document.querySelectorAll("form.rate")) {
  form.querySelector("button").hidden = false;
  form.querySelector("output").textContent = "";
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = new FormData(form);
    const said = form.querySelector("output");
    if (!fields.get("rating")) {
      said.textContent = "Choose a rating first.";
      return;
    }
    const rating = {
      Run: form.dataset.run,
      Rating: fields.get("rating"),
      Reasons: fields.getAll("reason"),
      Note: fields.get("note").trim(),
      Reviewer: fields.get("reviewer").trim(),
      Date: new Date().toISOString(),
      GeneratedBy: { Name: "sicnn-app", Version: form.dataset.version },
    };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(rating, null, 2) + "\n"], { type: "application/json" }));
    link.download = `${form.dataset.run}_desc-rating.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    said.textContent = `Saved as ${link.download}.`;
  });
}
