const data = JSON.parse(document.getElementById("data").textContent), pick = document.getElementById("pick");
const plot = document.getElementById("scatter"), tip = document.getElementById("tip"), says = document.getElementById("says");
const dots = [...document.querySelectorAll("#dots circle")], order = [...dots.keys()].sort((a, b) => data.truth[a] - data.truth[b]);
let at = -1;
const money = (x) => (x < 0 ? "-" : "") + data.affixes[0]
  + (Math.abs(x) < 0.095 && x ? String(Number(Math.abs(x).toPrecision(3))) : Math.abs(x) < 1000 ? Math.abs(x).toFixed(2) : Math.round(Math.abs(x)).toLocaleString("en")) + data.affixes[1];
const guessOf = (i) => data.guesses[pick.value][i];
const isHit = (i) => Math.abs(guessOf(i) - data.truth[i]) < Math.max(data.hit[0], data.hit[1] * data.truth[i]);
const height = (guess) => 100 - 100 * Math.sqrt(Math.min(Math.max(guess, 0), data.top) / data.top);

function draw() {
  let hits = 0, n = 0;
  leave();
  dots.forEach((dot, i) => {
    dot.style.display = guessOf(i) === null ? "none" : "";
    if (guessOf(i) === null) return;
    n += 1; hits += isHit(i);
    dot.setAttribute("cy", height(guessOf(i)) + "%");
    dot.setAttribute("class", isHit(i) ? "hit" : "miss");
  });
  says.textContent = `${pick.value}: ${hits} of the ${n} items shown are hits.`;
}
function leave() {
  if (at >= 0) dots[at].classList.remove("near");
  at = -1; tip.hidden = true;
}
function visit(i) {
  if (i === at) return;
  leave(); at = i;
  dots[i].classList.add("near");
  const off = guessOf(i) - data.truth[i], line = (text, tag) => {
    const node = document.createElement(tag); node.textContent = text; return node; };
  tip.replaceChildren(line(data.titles[i] || "(no title)", "b"), line(`price ${money(data.truth[i])}, guess ${money(guessOf(i))}`, "span"),
    line(`${isHit(i) ? "hit" : "miss"}: ${money(Math.abs(off))} too ${off < 0 ? "low" : "high"}`, "span"));
  tip.hidden = false;
  const x = parseFloat(dots[i].getAttribute("cx")), y = parseFloat(dots[i].getAttribute("cy")), box = plot.getBoundingClientRect();
  const left = Math.min(Math.max(x / 100 * box.width - tip.offsetWidth / 2, -20), box.width - tip.offsetWidth);
  tip.style.left = left + "px";
  tip.style.top = y / 100 * box.height + (y < 35 ? 14 : -14 - tip.offsetHeight) + "px";
}
function nearest(event) {
  const box = plot.getBoundingClientRect();
  let best = -1, reach = 28 ** 2;
  dots.forEach((dot, i) => {
    if (guessOf(i) === null) return;
    const dx = parseFloat(dot.getAttribute("cx")) / 100 * box.width - (event.clientX - box.left);
    const dy = parseFloat(dot.getAttribute("cy")) / 100 * box.height - (event.clientY - box.top);
    if (dx * dx + dy * dy < reach) { reach = dx * dx + dy * dy; best = i; }
  });
  if (best < 0) leave(); else visit(best);
}
function walk(event) {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  if (event.key === "Escape") return leave();
  if (!step) return;
  event.preventDefault();
  const shown = order.filter((i) => guessOf(i) !== null), place = shown.indexOf(at);
  visit(shown[place < 0 ? 0 : Math.min(Math.max(place + step, 0), shown.length - 1)]);
}
dots.forEach((dot) => dot.replaceChildren());  // the browser's own hint would cover ours
document.getElementById("picker").hidden = false;
pick.addEventListener("change", draw);
plot.addEventListener("pointermove", nearest);
plot.addEventListener("pointerdown", nearest);
plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
plot.addEventListener("keydown", walk);
plot.addEventListener("blur", leave);
draw();
