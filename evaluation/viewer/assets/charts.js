// Draws the charts (uPlot): runs overlaid, smoothed, one pointer for all. Texts reach the page as text, never as markup.
(() => {
  "use strict";
  const source = document.getElementById("chart-data");
  if (!source) return;
  const held = JSON.parse(source.textContent);
  const names = held.names;
  const many = Object.keys(names).length > 1;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const HEIGHT = 220;
  const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 4], [1, 2]];
  const together = uPlot.sync("steps");
  let charts = held.charts;
  let smooth = Number(sessionStorage.getItem("glyphrl-smooth") ?? 5);
  let plots = [];

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const show = (value, percent) => {
    if (value === null || value === undefined) return "–";
    if (percent) return (100 * value).toFixed(1) + " %";
    const size = Math.abs(value);
    const text = size >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(size < 1 ? 3 : 4);
    return text.replace("-", "−");
  };

  // mean over `width` neighbours, fewer at the ends; a gap stays a gap
  function smoothed(values, width) {
    if (width < 2) return values;
    const half = (width - 1) / 2;
    return values.map((value, at) => {
      if (value === null) return null;
      const near = values.slice(Math.max(0, at - half), at + half + 1).filter((one) => one !== null);
      return near.reduce((sum, one) => sum + one, 0) / near.length;
    });
  }

  // all lines on one scale of steps
  function table(chart) {
    const steps = [...new Set(chart.series.flatMap((line) => line.x))].sort((a, b) => a - b);
    const place = new Map(steps.map((step, at) => [step, at]));
    const spread = (line, values) => {
      const row = new Array(steps.length).fill(null);
      line.x.forEach((step, at) => { row[place.get(step)] = values[at]; });
      return row;
    };
    return { steps, spread };
  }

  function draw(figure, chart) {
    const plot = figure.querySelector(".plot");
    const legend = figure.querySelector(".legend");
    plot.replaceChildren();
    legend.replaceChildren();
    const kinds = [...new Set(chart.series.map((line) => line.name))];
    const runs = [...new Set(chart.series.map((line) => line.run))];
    const { steps, spread } = table(chart);
    const data = [steps];
    const series = [{ label: "step" }];
    const bands = [];
    const lines = [];
    for (const line of chart.series) {
      // colour: the run where a chart has one line a run, else the kind, with a dash for the run
      const colour = css(`--s${(kinds.length > 1 ? kinds.indexOf(line.name) : line.run) % 6}`);
      const dash = kinds.length > 1 ? DASHES[runs.indexOf(line.run) % DASHES.length] : [];
      const quiet = { points: { show: false }, spanGaps: true };
      if (line.low && runs.length === 1) {
        data.push(spread(line, smoothed(line.high, smooth)), spread(line, smoothed(line.low, smooth)));
        series.push({ ...quiet, stroke: "transparent" }, { ...quiet, stroke: "transparent" });
        bands.push({ series: [data.length - 2, data.length - 1], fill: colour + "22" });
      }
      if (smooth > 1) {
        data.push(spread(line, line.y));
        series.push({ ...quiet, stroke: colour + "50", width: 1 });
      }
      data.push(spread(line, smoothed(line.y, smooth)));
      series.push({ ...quiet, label: line.name, stroke: colour, width: 2.2, dash,
        points: { show: line.x.length < 3, size: 7, fill: colour } });
      lines.push({ line, at: data.length - 1, raw: spread(line, line.y), values: addLegend(legend, line, colour, dash, kinds) });
    }
    const read = (at) => lines.forEach((one) => {
      const last = one.raw.findLastIndex((value) => value !== null);
      one.values.textContent = show(one.raw[at ?? last], chart.percent);
    });
    const width = () => Math.max(260, plot.clientWidth);
    const axis = { stroke: css("--soft"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false },
      font: "12px system-ui, sans-serif" };
    const options = {
      width: width(), height: HEIGHT, series, bands, legend: { show: false }, padding: [10, 12, 0, 0],
      cursor: { sync: { key: together.key, setSeries: false }, drag: { x: true, y: false },
        points: { size: 8, show: (u, at) => series[at].label ? undefined : false } },
      scales: { x: { time: false } },
      axes: [{ ...axis, size: 30, space: 70, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5] },
        { ...axis, size: 52, values: (u, ticks) => ticks.map((value) => chart.percent ? `${+(100 * value).toFixed(1)}%` : String(+value.toPrecision(6)).replace("-", "−")) }],
      hooks: { setCursor: [(u) => read(u.cursor.idx)] },
    };
    const made = new uPlot(options, data, plot);
    read(null);
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `${chart.title} by step`);
    if (chart.steps && !document.body.dataset.alone) made.over.addEventListener("click", () => go(made, lines));
    plots.push({ made, width });
  }

  function addLegend(legend, line, colour, dash, kinds) {
    const item = document.createElement("li");
    const key = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const stroke = document.createElementNS(key.namespaceURI, "path");
    const label = document.createElement("bdi");
    const value = document.createElement("b");
    key.setAttribute("viewBox", "0 0 22 6");
    stroke.setAttribute("d", "M0 3h22");
    stroke.setAttribute("stroke", colour);
    stroke.setAttribute("stroke-dasharray", dash.join(" "));
    key.append(stroke);
    label.textContent = !many ? line.name : kinds.length > 1 ? `${line.name} · ${names[line.run]}` : names[line.run];
    item.append(key, label, value);
    legend.append(item);
    return value;
  }

  // a click opens the nearest step of the line under the pointer
  function go(plot, lines) {
    const at = plot.cursor.idx;
    if (at === null || at === undefined) return;
    const far = (one) => Math.abs(plot.valToPos(one.raw[at], "y") - plot.cursor.top);
    const near = lines.filter((one) => one.raw[at] !== null).sort((a, b) => far(a) - far(b))[0];
    if (near) location.assign(`/run/${near.line.run}/step?step=${Math.round(plot.data[0][at])}`);
  }

  function drawAll() {
    for (const { made } of plots) made.destroy();
    plots = [];
    for (const figure of document.querySelectorAll("[data-chart]")) {
      const chart = charts[Number(figure.dataset.chart)];
      if (chart) draw(figure, chart);
    }
    for (const button of document.querySelectorAll("[data-smooth]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.smooth) === smooth));
    }
  }

  for (const button of document.querySelectorAll("[data-smooth]")) {
    button.addEventListener("click", () => {
      smooth = Number(button.dataset.smooth);
      sessionStorage.setItem("glyphrl-smooth", String(smooth));
      drawAll();
    });
  }
  document.addEventListener("curves", (event) => {
    if (event.detail.length !== charts.length) location.reload(); // a new chart: the page has no place for it yet
    charts = event.detail;
    drawAll();
  });
  dark.addEventListener("change", drawAll);
  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => plots.forEach(({ made, width }) => made.setSize({ width: width(), height: HEIGHT })));
  });
  drawAll();
})();
