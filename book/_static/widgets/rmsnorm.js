// <lfs-rmsnorm>: a vector of two features that the reader drags, its image under RMSNorm and under LayerNorm.
// The formulas are those of the chapter; the numbers are computed here, in double precision, at every movement.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const SCALE = 62; // viewBox units per 1.0
  const REACH = 2.5; // largest coordinate of the vector
  const START = { x1: 0.5, x2: 0.2, log: -5, g1: 1, g2: 1 };

  function norms({ x1, x2, log, g1, g2 }) {
    const eps = 10 ** log;
    const mean = (x1 + x2) / 2;
    const rms = Math.sqrt((x1 * x1 + x2 * x2) / 2);
    const r = Math.sqrt(rms * rms + eps);
    const deviation = Math.sqrt(((x1 - mean) ** 2 + (x2 - mean) ** 2) / 2 + eps);
    return {
      eps, mean, rms,
      y: [(g1 * x1) / r, (g2 * x2) / r],
      layer: [(g1 * (x1 - mean)) / deviation, (g2 * (x2 - mean)) / deviation],
    };
  }

  const show = (v, digits = 3) => (Math.abs(v) < 0.5 * 10 ** -digits ? 0 : v).toFixed(digits).replace("-", "−");
  const pair = (v) => `(${show(v[0])}, ${show(v[1])})`;

  const slider = (key, label, min, max, step) =>
    `<div class="lfs-row"><label for="lfs-rmsnorm-${key}">${label}</label>
     <input id="lfs-rmsnorm-${key}" type="range" data-key="${key}" min="${min}" max="${max}" step="${step}">
     <output class="lfs-value" data-shown="${key}" for="lfs-rmsnorm-${key}"></output></div>`;

  const HTML = `
    <style>
      lfs-rmsnorm .stage { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; align-items: center; }
      lfs-rmsnorm svg { flex: 1 1 280px; min-width: 0; max-width: 390px; user-select: none; -webkit-user-select: none; }
      lfs-rmsnorm .side { flex: 1 1 240px; min-width: 0; }
      lfs-rmsnorm svg text { font-size: 16px; }
      lfs-rmsnorm svg .tick { font-size: 14px; }
      lfs-rmsnorm .hint { margin: 0 0 .4rem; }
      lfs-rmsnorm .handle { cursor: grab; }
      lfs-rmsnorm .handle, lfs-rmsnorm .handle:focus-visible { outline: none; }
      lfs-rmsnorm .handle:focus-visible .ring { stroke: var(--lfs-key); stroke-width: 4; }
      lfs-rmsnorm .lfs-row { grid-template-columns: 4.6rem 1fr 3.9rem; margin: 0; }
      lfs-rmsnorm .lfs-row > input { grid-column: auto; grid-row: auto; }
      lfs-rmsnorm .buttons { display: flex; flex-wrap: wrap; gap: .4rem; margin: .5rem 0; }
      lfs-rmsnorm dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .6rem 0 0; }
      lfs-rmsnorm :is(dt, dd) { margin: 0; font-weight: 400; }
      lfs-rmsnorm button:disabled { cursor: default; opacity: .45; }
      lfs-rmsnorm .norm { color: var(--lfs-normalised-text); font-weight: 600; }
    </style>
    <p class="hint">Drag the grey dot x, or move the sliders. A button rests while its step would leave the drawing.</p>
    <div class="stage">
      <svg viewBox="-180 -180 360 360" role="group" aria-label="A plane with two features. The vector x can be dragged.">
        <g class="grid"></g>
        <line class="mean-line" x1="-172" y1="172" x2="172" y2="-172" stroke="var(--lfs-faint)" stroke-width="2" stroke-dasharray="6 5"/>
        <text x="132" y="-150" text-anchor="end">direction (1, 1)</text>
        <text class="tick" x="176" y="18" text-anchor="end">feature 1</text>
        <text class="tick" x="-6" y="-164" text-anchor="end">feature 2</text>
        <ellipse class="sphere" fill="none" stroke="var(--lfs-normalised)" stroke-width="1.6"/>
        <line class="move" stroke="var(--lfs-faint)" stroke-width="2"/>
        <line class="y-arm" x1="0" y1="0" stroke="var(--lfs-normalised)" stroke-width="3.5"/>
        <rect class="layer" width="13" height="13" fill="var(--lfs-paper)" stroke="var(--lfs-ink)" stroke-width="2.5"/>
        <text class="layer-name">LayerNorm</text>
        <circle class="y" r="7.5" fill="var(--lfs-normalised)"/>
        <text class="y-name" style="fill:var(--lfs-normalised-text)">RMSNorm</text>
        <g class="handle" tabindex="0" role="slider" aria-label="the vector x; arrow keys move it" aria-valuemin="-2.5" aria-valuemax="2.5">
          <circle r="26" fill="transparent"/>
          <circle class="ring" r="13" fill="none" stroke="var(--lfs-residual)" stroke-width="1.5"/>
          <circle r="7.5" fill="var(--lfs-residual)"/>
          <text y="-19" text-anchor="middle">x</text>
        </g>
      </svg>
      <div class="side">
        ${slider("x1", "feature 1", -REACH, REACH, 0.01)}
        ${slider("x2", "feature 2", -REACH, REACH, 0.01)}
        ${slider("log", "ε", -12, 0, 0.5)}
        ${slider("g1", "gain 1", -1.5, 1.5, 0.05)}
        ${slider("g2", "gain 2", -1.5, 1.5, 0.05)}
        <div class="buttons">
          <button type="button" data-do="half">× ½</button>
          <button type="button" data-do="double">× 2</button>
          <button type="button" data-do="shift">+ 0.5 to both</button>
          <button type="button" data-do="unshift">− 0.5 to both</button>
          <button type="button" data-do="origin">near 0</button>
          <button type="button" data-do="reset">start again</button>
        </div>
        <dl aria-live="polite">
          <dt>mean of x</dt><dd class="lfs-value" data-out="mean"></dd>
          <dt>RMS of x</dt><dd class="lfs-value" data-out="rms"></dd>
          <dt class="norm">RMSNorm</dt><dd class="lfs-value" data-out="y"></dd>
          <dt>its length</dt><dd class="lfs-value" data-out="length"></dd>
          <dt>LayerNorm</dt><dd class="lfs-value" data-out="layer"></dd>
        </dl>
      </div>
    </div>`;

  class RMSNormWidget extends HTMLElement {
    connectedCallback() {
      if (this.state) return; // moved in the page: built already
      this.state = { ...START };
      this.classList.add("lfs-widget");
      this.innerHTML = HTML;
      this.grid();
      this.addEventListener("input", (event) => {
        this.set({ [event.target.dataset.key]: Number(event.target.value) });
      });
      this.addEventListener("click", (event) => {
        const { x1, x2 } = this.state;
        const moves = {
          half: { x1: x1 / 2, x2: x2 / 2 },
          double: { x1: 2 * x1, x2: 2 * x2 },
          shift: { x1: x1 + 0.5, x2: x2 + 0.5 },
          unshift: { x1: x1 - 0.5, x2: x2 - 0.5 },
          origin: { x1: 0.02, x2: 0.01 },
          reset: START,
        };
        const move = moves[event.target.dataset.do];
        if (move) this.set(move);
      });
      this.drag();
      this.set({});
    }

    find(selector) {
      return this.querySelector(selector);
    }

    grid() {
      for (const v of [-2, -1, 0, 1, 2]) {
        for (const [a, b] of [["x", "y"], ["y", "x"]]) {
          const line = document.createElementNS(SVG, "line");
          line.setAttribute(`${a}1`, v * SCALE);
          line.setAttribute(`${a}2`, v * SCALE);
          line.setAttribute(`${b}1`, -172);
          line.setAttribute(`${b}2`, 172);
          line.setAttribute("stroke", "var(--lfs-faint)");
          line.setAttribute("stroke-width", v === 0 ? 1.6 : 0.6);
          this.find(".grid").append(line);
        }
        if (v === 0 || v === 2) continue; // at 2 stands the axis's name
        this.tick(v, v * SCALE, 16, "middle");
        this.tick(v, -5, -v * SCALE + 5, "end");
      }
    }

    tick(v, x, y, anchor) {
      const text = document.createElementNS(SVG, "text");
      text.setAttribute("class", "tick");
      text.setAttribute("x", x);
      text.setAttribute("y", y);
      text.setAttribute("text-anchor", anchor);
      text.textContent = show(v, 0);
      this.find(".grid").append(text);
    }

    drag() {
      const handle = this.find(".handle");
      const svg = this.find("svg");
      // A finger on the dot moves the dot; anywhere else it scrolls the page. Browsers ignore touch-action on what is
      // inside an <svg>, and on the <svg> itself it would make the whole drawing a trap for fingers that scroll.
      handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      handle.addEventListener("pointerdown", (event) => {
        handle.setPointerCapture(event.pointerId);
        event.preventDefault();
        handle.focus({ preventScroll: true });
      });
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        this.set({ x1: at.x / SCALE, x2: -at.y / SCALE });
      });
      handle.addEventListener("keydown", (event) => {
        const step = event.shiftKey ? 0.5 : 0.1;
        const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
        if (!moves[event.key]) return;
        event.preventDefault();
        this.set({ x1: this.state.x1 + moves[event.key][0], x2: this.state.x2 + moves[event.key][1] });
      });
    }

    set(change) {
      const clamp = (v) => Math.max(-REACH, Math.min(REACH, v));
      Object.assign(this.state, change);
      this.state.x1 = clamp(this.state.x1);
      this.state.x2 = clamp(this.state.x2);
      this.draw(this.state, norms(this.state));
    }

    place(selector, attributes) {
      const element = this.find(selector);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    }

    draw(s, n) {
      const at = ([a, b]) => [a * SCALE, -b * SCALE];
      const [px, py] = at([s.x1, s.x2]);
      const [yx, yy] = at(n.y);
      const [lx, ly] = at(n.layer);
      this.place(".handle", { transform: `translate(${px} ${py})`, "aria-valuetext": pair([s.x1, s.x2]), "aria-valuenow": s.x1.toFixed(2) });
      this.place(".sphere", { rx: Math.SQRT2 * Math.abs(s.g1) * SCALE, ry: Math.SQRT2 * Math.abs(s.g2) * SCALE });
      this.place(".move", { x1: px, y1: py, x2: yx, y2: yy });
      this.place(".y-arm", { x2: yx, y2: yy });
      this.place(".y", { cx: yx, cy: yy });
      this.place(".layer", { x: lx - 6.5, y: ly - 6.5 });
      // x lies further out in the same direction, so the name of its image stands on the other side.
      this.label(".y-name", yx, yy, yy < 0 ? 24 : -13);
      this.label(".layer-name", lx, ly, ly < 0 ? -9 : 20);
      for (const input of this.querySelectorAll("input")) input.value = s[input.dataset.key];
      const shown = { x1: show(s.x1, 2), x2: show(s.x2, 2), log: n.eps.toExponential(0).replace("-", "−"), g1: show(s.g1, 2), g2: show(s.g2, 2) };
      for (const [key, text] of Object.entries(shown)) this.find(`[data-shown="${key}"]`).textContent = text;
      // A factor or a shift that the drawing cannot hold would be cut off, and look like another rule.
      this.find('[data-do="double"]').disabled = 2 * Math.max(Math.abs(s.x1), Math.abs(s.x2)) > REACH;
      this.find('[data-do="unshift"]').disabled = Math.min(s.x1, s.x2) - 0.5 < -REACH;
      this.find('[data-do="shift"]').disabled = Math.max(s.x1, s.x2) + 0.5 > REACH;
      const out = { mean: show(n.mean), rms: show(n.rms), y: pair(n.y), length: `${show(Math.hypot(...n.y))}  (√2 = 1.414)`, layer: pair(n.layer) };
      for (const [key, text] of Object.entries(out)) this.find(`[data-out="${key}"]`).textContent = text;
      // The full numbers, for tests and for the curious.
      Object.assign(this.dataset, { x1: s.x1, x2: s.x2, eps: n.eps, y1: n.y[0], y2: n.y[1], layer1: n.layer[0], layer2: n.layer[1], rms: n.rms });
    }

    label(selector, x, y, dy) {
      const right = x < 89; // keeps the words inside the drawing
      this.place(selector, { x: x + (right ? 12 : -12), y: y + dy, "text-anchor": right ? "start" : "end" });
    }
  }

  if (!customElements.get("lfs-rmsnorm")) customElements.define("lfs-rmsnorm", RMSNormWidget);
})();
