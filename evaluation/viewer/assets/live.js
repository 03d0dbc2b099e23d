// Looks every few seconds for what a live run has written: curves move on, elsewhere a button leads to the news.
const EVERY = 3000;
const body = document.body.dataset;
const news = document.getElementById("news");
const FOLLOW = "glyphrl-follow";
let known = null;

async function ask(url) {
  const answer = await fetch(url, { cache: "no-store" });
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

function announce(run) {
  const step = Number(body.step);
  if (body.step === undefined || run.last === null || run.last <= Number(body.last)) return;
  const count = run.last - Number(body.last);
  news.textContent = `${count} new ${count === 1 ? "step" : "steps"} →`;
  news.dataset.says = "go to the newest step";
  news.hidden = false;
  news.onclick = () => location.assign(`/run/${run.number}/step/${run.last}`);
  if (sessionStorage.getItem(FOLLOW) === "1" && step === Number(body.last)) news.click();
}

async function look() {
  if (document.hidden) return;
  let state;
  try {
    state = await ask("/api/state");
  } catch {
    document.body.classList.add("gone"); // the server has ended; what is shown stays
    return;
  }
  document.body.classList.remove("gone");
  const marks = JSON.stringify(state.runs.map((run) => [run.version, run.read, run.found]));
  const changed = known !== null && marks !== known;
  const stale = document.querySelector("[data-reading]") && state.runs.every((run) => run.read === run.found);
  known = marks;
  const mine = state.runs.find((run) => String(run.number) === body.run);
  if ((body.empty && changed) || stale) {
    location.reload();
  } else if (changed && body.section === "overview") {
    const charts = await ask(`/api/curves?runs=${encodeURIComponent(body.runs)}`);
    document.dispatchEvent(new CustomEvent("curves", { detail: charts }));
  }
  if (mine) announce(mine);
}

// Staying at the newest step: following begins where its button is pressed, and ends with any other way out.
news?.addEventListener("click", () => sessionStorage.setItem(FOLLOW, "1"));
document.addEventListener("click", (event) => {
  if (event.target.closest("a")) sessionStorage.removeItem(FOLLOW);
});
look();
setInterval(look, EVERY);
document.addEventListener("visibilitychange", look);
