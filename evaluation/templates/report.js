// Reads a chart's values out under the pointer. Names and values reach the page as text, never as markup.
"use strict";
const tip = document.getElementById("tip");

function nearest(points, x) {
  let best = points[0];
  for (const point of points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  return best;
}

for (const svg of document.querySelectorAll("svg:has(.line)")) {
  const lines = [...svg.querySelectorAll(".line")].map((group) => ({
    name: group.dataset.name,
    points: JSON.parse(group.dataset.points),
    dot: group.appendChild(document.createElementNS(svg.namespaceURI, "circle")),
  }));
  const cursor = svg.querySelector(".cursor");
  for (const line of lines) {
    line.dot.setAttribute("r", "4");
    line.dot.setAttribute("visibility", "hidden");
  }
  const hide = () => {
    tip.hidden = true;
    for (const item of [cursor, ...lines.map((line) => line.dot)]) item.setAttribute("visibility", "hidden");
  };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const at = nearest(lines[0].points, x);
    const text = ["step " + at[1]];
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", at[0]);
    cursor.setAttribute("x2", at[0]);
    for (const line of lines) {
      const point = nearest(line.points, at[0]);
      line.dot.setAttribute("cx", point[0]);
      line.dot.setAttribute("cy", point[2]);
      line.dot.setAttribute("visibility", "visible");
      text.push(line.name + "  " + point[3]);
    }
    tip.textContent = text.join("\n");
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
  });
}
