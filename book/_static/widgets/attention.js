// <lfs-attention>: a query that the reader drags among three keys; the weights of the three, and the mean of their values.
// The numbers are those of the chapter's example, computed here in double precision at every movement.
(() => {
  const WORDS = ["the", "cat", "sat"];
  const KEYS = [[-1, 1], [1, 0], [0, 2]];
  const VALUES = [[0, 1], [4, 0], [5, 5]];
  const START = [1, 1];
  const REACH = 3;
  const SCALE = 46; // viewBox units per 1.0, left drawing
  const FIELD = 40; // and right drawing

  function attend([a, b]) {
    const scores = KEYS.map(([x, y]) => (a * x + b * y) / Math.SQRT2);
    const top = Math.max(...scores);
    const powers = scores.map((s) => Math.exp(s - top));
    const sum = powers.reduce((x, y) => x + y, 0);
    const weights = powers.map((p) => p / sum);
    const output = [0, 1].map((i) => weights.reduce((mean, w, n) => mean + w * VALUES[n][i], 0));
    return { scores, weights, output };
  }

  const show = (v, digits = 2) => v.toFixed(digits).replace(/^-(0\.0*)$/, "$1").replace("-", "−");
  const arrow = (name, [x, y], colour, label) => `
    <line class="${name}" x1="0" y1="0" x2="${x * SCALE}" y2="${-y * SCALE}" stroke="var(--lfs-${colour})" stroke-width="3"/>
    <text x="${x * SCALE + 7}" y="${-y * SCALE - 5}" style="fill:var(--lfs-${colour}-text)">${label}</text>`;

  const HTML = `
    <style>
      lfs-attention .stage { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center; justify-content: center; }
      lfs-attention svg { flex: 1 1 230px; min-width: 0; max-width: 330px; user-select: none; -webkit-user-select: none; }
      lfs-attention svg text { font-size: 16px; }
      lfs-attention .handle { cursor: grab; }
      lfs-attention .handle:focus-visible { outline: none; }
      lfs-attention .handle:focus-visible .ring { stroke: var(--lfs-key); stroke-width: 4; }
      lfs-attention table { border-collapse: collapse; margin: .6rem auto 0; font-variant-numeric: tabular-nums; }
      lfs-attention :is(th, td) { padding: .15rem .7rem; text-align: right; }
      lfs-attention .buttons { display: flex; flex-wrap: wrap; gap: .4rem; justify-content: center; margin: .4rem 0; }
    </style>
    <p class="lfs-note">Drag the dot at the tip of the query, or focus it and press the arrow keys.</p>
    <div class="stage">
      <svg viewBox="-150 -150 300 300" role="group" aria-label="A plane with three keys and a query that can be dragged.">
        <line x1="-145" x2="145" y1="0" y2="0" stroke="var(--lfs-faint)"/><line y1="-145" y2="145" x1="0" x2="0" stroke="var(--lfs-faint)"/>
        ${KEYS.map((key, i) => arrow("key", key, "key", `k ${WORDS[i]}`)).join("")}
        <line class="query" x1="0" y1="0" stroke="var(--lfs-query)" stroke-width="4"/>
        <g class="handle" tabindex="0" role="slider" aria-label="the query; arrow keys move it" aria-valuemin="-3" aria-valuemax="3">
          <circle r="28" fill="transparent"/>
          <circle class="ring" r="13" fill="none" stroke="var(--lfs-query)" stroke-width="1.5"/>
          <circle r="7.5" fill="var(--lfs-query)"/>
          <text y="-18" text-anchor="middle" style="fill:var(--lfs-query-text)">q</text>
        </g>
      </svg>
      <svg viewBox="-40 -260 300 300" role="img" aria-label="Three values and their weighted mean.">
        <polygon points="${VALUES.map(([x, y]) => `${x * FIELD},${-y * FIELD}`).join(" ")}" fill="var(--lfs-faint)" opacity=".5"/>
        ${VALUES.map(([x, y], i) => `<circle class="value" cx="${x * FIELD}" cy="${-y * FIELD}" fill="var(--lfs-value)"/>
          <text x="${x * FIELD + (i === 2 ? -16 : 16)}" y="${-y * FIELD + (i === 2 ? -12 : 20)}" text-anchor="${i === 2 ? "end" : "start"}" style="fill:var(--lfs-value-text)">v ${WORDS[i]}</text>`).join("")}
        <path class="output" d="M0 -11 L3.2 -3.4 L11 -3.4 L4.8 1.6 L7 9.5 L0 4.8 L-7 9.5 L-4.8 1.6 L-11 -3.4 L-3.2 -3.4 Z" fill="var(--lfs-real)"/>
      </svg>
    </div>
    <table aria-live="polite"><tr><th></th>${WORDS.map((w) => `<th>${w}</th>`).join("")}</tr>
      <tr><th>score</th>${WORDS.map((_, i) => `<td data-score="${i}"></td>`).join("")}</tr>
      <tr><th>weight</th>${WORDS.map((_, i) => `<td data-weight="${i}"></td>`).join("")}</tr></table>
    <div class="buttons"><button type="button" data-do="double">query × 2</button><button type="button" data-do="half">query × ½</button>
      <button type="button" data-do="reset">start again</button></div>`;

  class Attention extends HTMLElement {
    connectedCallback() {
      if (this.q) return;
      this.classList.add("lfs-widget");
      this.innerHTML = HTML;
      this.handle = this.querySelector(".handle");
      this.addEventListener("click", (event) => {
        const moves = { double: this.q.map((v) => 2 * v), half: this.q.map((v) => v / 2), reset: START };
        const move = moves[event.target.dataset.do];
        if (move) this.set(move);
      });
      this.drag(this.querySelector("svg"));
      this.set(START);
    }

    drag(svg) {
      // A finger on the dot moves the dot; anywhere else it scrolls the page.
      this.handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      this.handle.addEventListener("pointerdown", (event) => {
        this.handle.setPointerCapture(event.pointerId);
        event.preventDefault();
        this.handle.focus({ preventScroll: true });
      });
      this.handle.addEventListener("pointermove", (event) => {
        if (!this.handle.hasPointerCapture(event.pointerId)) return;
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        this.set([at.x / SCALE, -at.y / SCALE]);
      });
      this.handle.addEventListener("keydown", (event) => {
        const step = event.shiftKey ? 0.5 : 0.1;
        const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
        if (!moves[event.key]) return;
        event.preventDefault();
        this.set(this.q.map((v, i) => v + moves[event.key][i]));
      });
    }

    set(q) {
      this.q = q.map((v) => Math.max(-REACH, Math.min(REACH, v)));
      const { scores, weights, output } = attend(this.q);
      const [x, y] = [this.q[0] * SCALE, -this.q[1] * SCALE];
      this.handle.setAttribute("transform", `translate(${x} ${y})`);
      this.handle.setAttribute("aria-valuenow", this.q[0].toFixed(2));
      this.handle.setAttribute("aria-valuetext", `(${show(this.q[0])}, ${show(this.q[1])})`);
      const line = this.querySelector(".query");
      line.setAttribute("x2", x);
      line.setAttribute("y2", y);
      this.querySelectorAll(".value").forEach((dot, i) => dot.setAttribute("r", 4 + 14 * weights[i]));
      this.querySelector(".output").setAttribute("transform", `translate(${output[0] * FIELD} ${-output[1] * FIELD})`);
      scores.forEach((s, i) => { this.querySelector(`[data-score="${i}"]`).textContent = show(s); });
      weights.forEach((w, i) => { this.querySelector(`[data-weight="${i}"]`).textContent = show(w, 3); });
      const far = Math.max(...this.q.map(Math.abs));
      this.querySelector('[data-do="double"]').disabled = 2 * far > REACH;
      Object.assign(this.dataset, { q: this.q.join(" "), weights: weights.join(" "), output: output.join(" ") });
    }
  }

  if (!customElements.get("lfs-attention")) customElements.define("lfs-attention", Attention);
})();
