// <lfs-rope>: eight pairs of clock hands, one for each frequency, turned by the positions of a query and a key.
// Everything shown is computed here from q, k, m and n. The element carries the same numbers as data attributes
// (q and k unturned, adjacent pairs; scores and their sum at full precision), so that a test can compare them.
(() => {
  const PAIRS = 8, BASE = 10000, LAST = 200, PEAK = 20;
  const THETA = Array.from({ length: PAIRS }, (_, i) => BASE ** (-i / PAIRS)); // base^(-2i/d), d = 16
  const arrow = (angle) => [Math.cos(angle), Math.sin(angle)];
  const turn = ([a, b], angle) => {
    const [c, s] = arrow(angle);
    return [a * c - b * s, a * s + b * c];
  };
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];

  // Golden-angle steps look random, and are the same for every reader.
  const mixed = (step, start) => THETA.map((_, i) => arrow(start + step * i));
  const ones = THETA.map(() => [Math.SQRT1_2, Math.SQRT1_2]);
  const query = mixed(2.399963, 0.5);
  const KEYS = {
    peak: [`peaks at ${PEAK}`, query, query.map((pair, i) => turn(pair, PEAK * THETA[i]))],
    ones: ["all equal, like the query", ones, ones],
    random: ["random", query, mixed(3.883222, 1.9)],
  };

  const signed = (x) => (x < -0.005 ? "−" : "+") + Math.abs(x).toFixed(2);
  const css = `
    lfs-rope .faces { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.5rem 0.4rem; margin: 0.6rem 0; }
    lfs-rope .face { text-align: center; font-size: 0.85rem; line-height: 1.25; white-space: nowrap; }
    lfs-rope .face svg { width: 100%; max-width: 120px; margin: 0 auto 0.15rem; }
    lfs-rope .face .lfs-value { display: block; text-align: center; }
    lfs-rope .choice { display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; align-items: center; margin: 0.35rem 0; }
    lfs-rope .choice label { align-items: center; display: flex; margin: 0; }
    lfs-rope .choice input { width: 1.15rem; height: 1.15rem; vertical-align: middle; margin-right: 0.4rem; }
    lfs-rope .total { font-weight: 600; display: flex; flex-wrap: wrap; gap: 0.2rem 1.6rem; justify-content: center; }
    lfs-rope .step { display: flex; align-items: center; justify-content: end; gap: 0.4rem; }
    lfs-rope .step output { min-width: 2rem; }
    lfs-rope .step button { padding: 0 0.75rem; }
    lfs-rope .curve { width: 100%; cursor: ew-resize; }
    lfs-rope .plot { display: grid; gap: 0.5rem; grid-template-columns: minmax(0, 1fr) 1.6rem; }
    lfs-rope .scores { display: flex; flex-direction: column; font-size: 0.85rem; justify-content: space-between; text-align: right; }
    lfs-rope .axis { display: flex; justify-content: space-between; font-size: 0.85rem; padding-right: 2.1rem; }
    lfs-rope .q { color: var(--lfs-query-text); stroke: var(--lfs-query); }
    lfs-rope .k { color: var(--lfs-key-text); stroke: var(--lfs-key); }
    lfs-rope label.q, lfs-rope label.k { font-weight: 600; }`;

  const row = (hand, name) => `<div class="lfs-row"><label class="${hand === "m" ? "q" : "k"}" for="rope-${hand}">${name} at position</label>
      <input id="rope-${hand}" type="range" min="0" max="${LAST}">
      <span class="step"><button type="button" data-hand="${hand}" data-by="-1" aria-label="${name} one token back">−</button>
      <output class="lfs-value ${hand}"></output>
      <button type="button" data-hand="${hand}" data-by="1" aria-label="${name} one token on">+</button></span></div>`;

  const face = (i) => `<div class="face">
      <svg viewBox="-60 -60 120 120" aria-hidden="true">
        <circle r="56" fill="none" stroke="var(--lfs-faint)" stroke-width="3"/>
        <path class="arc" fill="none" stroke="var(--lfs-position)" stroke-width="5"/>
        <line class="q" stroke-width="6" stroke-linecap="round"/>
        <line class="k" stroke-width="6" stroke-linecap="round" stroke-dasharray="10 9"/>
      </svg>
      <div>θ = ${Number(THETA[i].toPrecision(2))}</div>
      <span class="lfs-value score"></span>
    </div>`;

  class RopeWidget extends HTMLElement {
    connectedCallback() {
      if (this.built) return;
      this.built = true;
      const options = Object.entries(KEYS).map(([value, [name]]) => `<option value="${value}">${name}</option>`);
      this.innerHTML = `<style>${css}</style><div class="lfs-widget">
        ${row("m", "query")}${row("n", "key")}
        <div class="choice">
          <label><input id="rope-lock" type="checkbox">keep the distance</label>
          <label>key: <select id="rope-key" aria-label="which key">${options.join("")}</select></label>
        </div>
        <div class="total"><span>distance <output class="lfs-value distance"></output></span>
          <span>score, the sum of the eight <output class="lfs-value sum"></output></span></div>
        <div class="faces">${THETA.map((_, i) => face(i)).join("")}</div>
        <div class="plot"><svg class="curve" viewBox="0 0 600 180" role="img"
             aria-label="The score against distance, a curve; the dot is the distance chosen above.">
          <line x1="0" x2="600" y1="90" y2="90" stroke="var(--lfs-faint)" stroke-width="2"/>
          <path class="wave" fill="none" stroke="var(--lfs-position)" stroke-width="2.5" vector-effect="non-scaling-stroke"/>
          <circle r="10" fill="var(--lfs-ink)"/>
        </svg><div class="scores" aria-hidden="true"><span>+${PAIRS}</span><span>0</span><span>−${PAIRS}</span></div></div>
        <div class="axis"><span>distance 0</span><span>${LAST} tokens</span></div>
        <p class="lfs-note">Blue: the query. Orange, dashed: the key. A key lies at or before its query; one pushes the other along.
          The curve is the score at each distance; drag on it to choose another (this lets go of a kept distance).</p>
      </div>`;
      const $ = (selector) => this.querySelector(selector);
      this.m = $("#rope-m");
      this.n = $("#rope-n");
      this.lock = $("#rope-lock");
      this.kind = $("#rope-key");
      this.m.addEventListener("input", () => this.move(Number(this.m.value), Number(this.n.value), "m"));
      this.n.addEventListener("input", () => this.move(Number(this.m.value), Number(this.n.value), "n"));
      this.kind.addEventListener("change", () => this.draw());
      for (const button of this.querySelectorAll(".step button")) {
        const { hand, by } = button.dataset;
        button.addEventListener("click", () => {
          this[hand].value = Number(this[hand].value) + Number(by);
          this.move(Number(this.m.value), Number(this.n.value), hand);
        });
      }
      const curve = $(".curve");
      const pick = (event) => {
        const box = curve.getBoundingClientRect();
        const d = Math.round(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * LAST);
        const m = Math.max(Number(this.m.value), d);
        this.set(m, m - d);
      };
      curve.addEventListener("pointerdown", (event) => {
        curve.setPointerCapture(event.pointerId);
        this.lock.checked = false;
        pick(event);
      });
      curve.addEventListener("pointermove", (event) => event.buttons && pick(event));
      this.set(20, 8); // not at the peak, where the hands of every face lie on each other
    }

    // A key lies at or before its query: who is moved pushes the other along. Locked, both move together.
    move(m, n, by) {
      if (this.lock.checked) {
        m = by === "m" ? Math.max(m, this.distance) : Math.min(n + this.distance, LAST);
        n = m - this.distance;
      } else if (n > m) {
        if (by === "m") n = m;
        else m = n;
      }
      this.set(m, n);
    }

    set(m, n) {
      this.m.value = m;
      this.n.value = n;
      this.distance = m - n;
      this.draw();
    }

    draw() {
      const m = Number(this.m.value), n = Number(this.n.value);
      const [, q, k] = KEYS[this.kind.value];
      const at = (d) => THETA.reduce((sum, theta, i) => sum + dot(turn(q[i], d * theta), k[i]), 0);
      const scores = THETA.map((theta, i) => {
        const hands = [turn(q[i], m * theta), turn(k[i], n * theta)];
        this.drawFace(i, hands);
        return dot(...hands);
      });
      const sum = scores.reduce((a, b) => a + b, 0);
      const say = (selector, text) => { this.querySelector(selector).textContent = text; };
      say(".m", m);
      say(".n", n);
      say(".distance", m - n);
      say(".sum", signed(sum));
      const y = (score) => 90 - (score / PAIRS) * 80;
      const points = Array.from({ length: 2 * LAST + 1 }, (_, j) => `${(j * 300) / LAST} ${y(at(j / 2)).toFixed(1)}`);
      this.querySelector(".wave").setAttribute("d", `M${points.join("L")}`);
      const spot = this.querySelector(".curve circle");
      spot.setAttribute("cx", ((m - n) * 600) / LAST);
      spot.setAttribute("cy", y(sum));
      Object.assign(this.dataset, {
        m, n, q: JSON.stringify(q.flat()), k: JSON.stringify(k.flat()), scores: JSON.stringify(scores), score: sum,
      });
    }

    drawFace(i, hands) {
      const box = this.querySelectorAll(".face")[i];
      hands.forEach(([x, y], which) => {
        const line = box.querySelector(which ? "line.k" : "line.q");
        line.setAttribute("x2", 48 * x);
        line.setAttribute("y2", -48 * y); // y points down in SVG
      });
      const [[qx, qy], [kx, ky]] = hands;
      const clockwise = qx * ky - qy * kx < 0 ? 1 : 0;
      box.querySelector(".arc").setAttribute(
        "d", `M${22 * qx} ${-22 * qy}A22 22 0 0 ${clockwise} ${22 * kx} ${-22 * ky}`);
      box.querySelector(".score").textContent = signed(dot(...hands));
    }
  }
  if (!customElements.get("lfs-rope")) customElements.define("lfs-rope", RopeWidget);
})();
