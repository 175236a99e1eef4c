// <lfs-swiglu>: the two numbers that a gated neuron reads, as sliders; what SiLU, ReLU and GELU make of the gate, and
// the product with up, over a picture of all such products.
(() => {
  const REACH = 4;
  const CELLS = 32;
  const SIZE = 256; // viewBox units
  const START = { gate: 2, up: -1.5 };
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const silu = (x) => x * sigmoid(x);
  // Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: off by less than 1.5e-7.
  const erf = (x) => {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const y = 1 - (((((1.061405429 * t - 1.453152027) * t) + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
    return x < 0 ? -y : y;
  };
  const gates = { SiLU: silu, ReLU: (x) => Math.max(0, x), GELU: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2 };
  const show = (v) => v.toFixed(2).replace(/^-(0\.00)$/, "$1").replace("-", "−");

  const cells = () => {
    const parts = [];
    const side = SIZE / CELLS;
    for (let row = 0; row < CELLS; row++) {
      for (let column = 0; column < CELLS; column++) {
        const gate = ((column + 0.5) / CELLS) * 2 * REACH - REACH;
        const up = REACH - ((row + 0.5) / CELLS) * 2 * REACH;
        const value = silu(gate) * up;
        const strength = Math.min(1, Math.abs(value) / 12).toFixed(3);
        parts.push(`<rect x="${column * side}" y="${row * side}" width="${side + 0.3}" height="${side + 0.3}" fill="var(--lfs-${value < 0 ? "negative" : "positive"})" opacity="${strength}"/>`);
      }
    }
    return parts.join("");
  };

  const slider = (key) => `<div class="lfs-row"><label for="lfs-swiglu-${key}">${key}</label>
    <input id="lfs-swiglu-${key}" type="range" data-key="${key}" min="${-REACH}" max="${REACH}" step="0.05"><output class="lfs-value" data-shown="${key}"></output></div>`;

  const HTML = `
    <style>
      lfs-swiglu .stage { display: flex; flex-wrap: wrap; gap: .6rem 1.4rem; align-items: center; }
      lfs-swiglu svg { flex: 1 1 220px; min-width: 0; max-width: 300px; }
      lfs-swiglu svg text { font-size: 15px; }
      lfs-swiglu .side { flex: 1 1 230px; min-width: 0; }
      lfs-swiglu table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: .5rem; }
      lfs-swiglu :is(th, td) { padding: .15rem .8rem .15rem 0; text-align: right; }
      lfs-swiglu th:first-child { text-align: left; }
    </style>
    <p class="lfs-note">Move the two numbers that the neuron reads. The shade is SiLU(gate) · up; the cross is where you are.</p>
    <div class="stage">
      <svg viewBox="-4 -4 ${SIZE + 8} ${SIZE + 30}" role="img" aria-label="All products of a gated neuron: strong on the right, of the sign of up; nearly nothing on the left.">
        ${cells()}
        <line x1="0" x2="${SIZE}" y1="${SIZE / 2}" y2="${SIZE / 2}" stroke="var(--lfs-faint)"/><line y1="0" y2="${SIZE}" x1="${SIZE / 2}" x2="${SIZE / 2}" stroke="var(--lfs-faint)"/>
        <text x="${SIZE}" y="${SIZE + 18}" text-anchor="end">gate →</text><text x="${SIZE / 2 + 5}" y="14">up ↑</text>
        <path class="cross" d="M-7 -7 L7 7 M-7 7 L7 -7" stroke="var(--lfs-ink)" stroke-width="3"/>
      </svg>
      <div class="side">${slider("gate")}${slider("up")}
        <table aria-live="polite"><tr><th></th><th>of gate</th><th>· up</th></tr>
          ${Object.keys(gates).map((name) => `<tr><th>${name}</th><td data-gate="${name}"></td><td data-product="${name}"></td></tr>`).join("")}</table>
      </div>
    </div>`;

  class SwiGLU extends HTMLElement {
    connectedCallback() {
      if (this.state) return;
      this.state = { ...START };
      this.classList.add("lfs-widget");
      this.innerHTML = HTML;
      this.addEventListener("input", (event) => {
        this.state[event.target.dataset.key] = Number(event.target.value);
        this.draw();
      });
      this.draw();
    }

    draw() {
      const { gate, up } = this.state;
      for (const key of ["gate", "up"]) {
        this.querySelector(`[data-key="${key}"]`).value = this.state[key];
        this.querySelector(`[data-shown="${key}"]`).textContent = show(this.state[key]);
      }
      const place = (v) => ((v + REACH) / (2 * REACH)) * SIZE;
      this.querySelector(".cross").setAttribute("transform", `translate(${place(gate)} ${SIZE - place(up)})`);
      for (const [name, fn] of Object.entries(gates)) {
        this.querySelector(`[data-gate="${name}"]`).textContent = show(fn(gate));
        this.querySelector(`[data-product="${name}"]`).textContent = show(fn(gate) * up);
        this.dataset[name.toLowerCase()] = fn(gate) * up;
      }
      Object.assign(this.dataset, { gate, up });
    }
  }

  if (!customElements.get("lfs-swiglu")) customElements.define("lfs-swiglu", SwiGLU);
})();
