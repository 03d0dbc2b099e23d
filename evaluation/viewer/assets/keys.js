// Keyboard: every element with data-key answers to its key; data-says is what the help says about it.
const help = document.getElementById("help");
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
const targets = () => [...document.querySelectorAll("[data-key]")].filter((item) => !item.hidden);

function press(item) {
  if (item.matches("input")) {
    item.focus();
    item.select();
  } else {
    item.click();
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) typing.blur();
  if (typing || document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
  const named = { ArrowRight: "j", ArrowLeft: "k" }[event.key] ?? event.key;
  const item = targets().find((one) => one.dataset.key === named);
  if (item) {
    event.preventDefault();
    press(item);
  }
});

document.getElementById("help-open")?.addEventListener("click", () => {
  const list = help.querySelector("dl");
  list.replaceChildren();
  const rows = targets().map((item) => [item.dataset.key, item.dataset.says]);
  if (document.querySelector("[data-full]")) rows.push(["z", "zoom into the image"]);
  for (const [key, says] of rows) {
    if (!says) continue;
    const row = document.createElement("div");
    const name = document.createElement("dt");
    const cap = document.createElement("kbd");
    const meaning = document.createElement("dd");
    cap.textContent = { j: "j  →", k: "k  ←" }[key] ?? key;
    name.append(cap);
    meaning.textContent = says;
    row.append(name, meaning);
    list.append(row);
  }
  help.showModal();
});
help?.addEventListener("click", (event) => {
  if (event.target === help) help.close();
});
