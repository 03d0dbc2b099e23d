// The image in full: wheel, pinch or + − zoom around the pointer, drag moves, 0 shows the whole.
(() => {
  "use strict";
  const dialog = document.getElementById("zoom");
  if (!dialog) return;
  const stage = dialog.querySelector(".stage");
  const image = stage.querySelector("img");
  const pointers = new Map();
  let scale = 1;
  let x = 0;
  let y = 0;

  const draw = () => {
    image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    image.classList.toggle("pixels", scale > 2 && image.naturalWidth < 800);
  };
  const whole = () => {
    const room = stage.getBoundingClientRect();
    const width = image.naturalWidth || 1;
    const height = image.naturalHeight || 1;
    scale = Math.min((room.width * 0.92) / width, (room.height * 0.86) / height, 12);
    x = (room.width - width * scale) / 2;
    y = (room.height - height * scale) / 2;
    draw();
  };
  const zoom = (factor, clientX, clientY) => {
    const room = stage.getBoundingClientRect();
    const px = (clientX ?? room.left + room.width / 2) - room.left;
    const py = (clientY ?? room.top + room.height / 2) - room.top;
    const next = Math.min(Math.max(scale * factor, 0.05), 60);
    x = px - ((px - x) * next) / scale;
    y = py - ((py - y) * next) / scale;
    scale = next;
    draw();
  };
  const open = (button) => {
    image.src = button.dataset.full || button.querySelector("img").src;
    image.alt = button.querySelector("img").alt;
    dialog.showModal();
    if (image.complete) whole();
  };

  image.addEventListener("load", whole);
  image.draggable = false;
  for (const button of document.querySelectorAll("button.picture")) {
    button.addEventListener("click", () => open(button));
  }
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), event.clientX, event.clientY);
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const other = [...pointers.values()].find((one) => one.pointerId !== event.pointerId);
    if (other) {
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      zoom(apart(event) / apart(before), (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
    } else {
      x += event.clientX - before.clientX;
      y += event.clientY - before.clientY;
      draw();
    }
    pointers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (dialog.open) {
      if (event.key === "+" || event.key === "=") zoom(1.3);
      else if (event.key === "-") zoom(1 / 1.3);
      else if (event.key === "0") whole();
      else if (event.key === "z") dialog.close();
    } else if (event.key === "z" && !event.target.closest("input, select, textarea")) {
      const first = document.querySelector("button.picture");
      if (first) open(first);
    }
  });
})();
