// <lfs-gqa>: draws which query head reads which key/value head, and counts cache, parameters and bytes read of any Llama.
// Every number shown is computed here from the sliders; tests/book/test_widget_grouped_query_attention.py compares them with the package.
(() => {
  "use strict";
  if (customElements.get("lfs-gqa")) return;

  // vocab, dim, layers, heads, kv_heads, ffn_dim, context, tied: as in llama_from_scratch.PRESETS (the test compares them too)
  const PRESETS = {
    "Llama-2-7B": [32000, 4096, 32, 32, 32, 11008, 4096, false],
    "Llama-2-70B": [32000, 8192, 80, 64, 8, 28672, 4096, false],
    "Llama-3-8B": [128256, 4096, 32, 32, 8, 14336, 8192, false],
    "Llama-3-70B": [128256, 8192, 80, 64, 8, 28672, 8192, false],
    "Llama-3.1-405B": [128256, 16384, 126, 128, 8, 53248, 131072, false],
    "Llama-3.2-1B": [128256, 2048, 16, 32, 8, 8192, 131072, true],
    "Llama-3.2-3B": [128256, 3072, 28, 24, 8, 8192, 131072, true],
    "SmolLM2-135M": [49152, 576, 30, 9, 3, 1536, 8192, true],
  };
  const HEADS = [4, 6, 8, 9, 12, 14, 15, 16, 20, 24, 28, 32, 40, 48, 52, 64, 96, 128];
  const HEAD_DIMS = [32, 64, 80, 96, 128, 192, 256];
  const CONTEXTS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072];
  const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256];
  const GPU = 80e9; // bytes of one H100
  const BANDWIDTH = 3.35e12; // bytes per second, H100 SXM

  const divisors = (n) => Array.from({ length: n }, (_, i) => i + 1).filter((i) => n % i === 0);
  const range = (n) => Array.from({ length: n }, (_, i) => i + 1);
  const grouped = (n) => Math.round(n).toString().replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  const bytes = (n) => {
    for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
      if (n >= size) return `${(n / size).toPrecision(3)} ${unit}`;
    return `${n} B`;
  };
  const count = (n) => (n >= 1e9 ? `${(n / 1e9).toPrecision(3)} G` : n >= 1e6 ? `${(n / 1e6).toPrecision(3)} M` : grouped(n));

  const STYLE = `
    lfs-gqa .lfs-widget .gqa-kv input[type="range"] { accent-color: var(--lfs-key); }
    lfs-gqa .lfs-widget .gqa-head input[type="range"] { accent-color: var(--lfs-query); }
    lfs-gqa .gqa-names { display: flex; flex-wrap: wrap; gap: 0 1.2rem; justify-content: space-between; }
    lfs-gqa .gqa-names b { font-weight: 600; }
    lfs-gqa .gqa-step { align-items: center; display: flex; gap: .4rem; }
    lfs-gqa .lfs-widget svg { cursor: pointer; }
    lfs-gqa .lfs-row > select { grid-column: 2 / -1; }
    lfs-gqa .lfs-widget svg { margin: .5rem 0 0; width: 100%; }
    lfs-gqa .gqa-reads { min-height: 1.4em; }
    lfs-gqa .gqa-bar { border: 1px solid var(--lfs-residual); display: flex; height: 1.4rem; margin-top: .6rem; overflow: hidden; position: relative; }
    lfs-gqa .gqa-bar div { flex: none; height: 100%; }
    lfs-gqa .gqa-bar .gqa-weights { background: var(--lfs-residual); }
    lfs-gqa .gqa-bar .gqa-cache { background: var(--lfs-key); }
    lfs-gqa .gqa-bar i { border-left: 3px solid var(--lfs-ink); height: 100%; position: absolute; }
    lfs-gqa table { border-collapse: collapse; margin: .6rem 0; width: 100%; }
    lfs-gqa td { border-top: 1px solid var(--lfs-faint); padding: .2rem .3rem .2rem 0; vertical-align: baseline; }
    lfs-gqa td small { color: var(--pst-color-text-muted); display: block; }
    lfs-gqa summary { cursor: pointer; margin-top: .5rem; }
  `;

  class Gqa extends HTMLElement {
    connectedCallback() {
      if (this.ready) return;
      this.ready = true;
      this.innerHTML = `
        <style>${STYLE}</style>
        <div class="lfs-widget" role="group" aria-label="Grouped-query attention, counted">
          <div class="lfs-row"><label for="gqa-preset">start from</label><select id="gqa-preset" name="preset">
            ${Object.keys(PRESETS).map((name) => `<option>${name}</option>`).join("")}<option hidden>your own</option></select></div>
          <p class="gqa-names"><b class="gqa-queries" style="color:var(--lfs-query-text)"></b><span class="gqa-step"><small>tap or drag over the heads</small>
            <button type="button" data-by="-1" aria-label="one query head back">−</button>
            <button type="button" data-by="1" aria-label="one query head on">+</button></span></p>
          <svg role="img"></svg>
          <p class="gqa-names"><b class="gqa-keys" style="color:var(--lfs-key-text)"></b><b class="gqa-values" style="color:var(--lfs-value-text)"></b></p>
          <p class="gqa-reads" aria-live="polite"></p>
          ${this.slider("n_kv_heads", "gqa-kv")}
          <p class="gqa-sizes"></p>
          <div class="gqa-bar" aria-hidden="true"><div class="gqa-weights"></div><div class="gqa-cache"></div><i></i></div>
          <p class="gqa-fit" aria-live="polite"></p>
          ${this.slider("batch")}${this.slider("context")}
          <table><tbody></tbody></table>
          <details><summary>change the model itself</summary>
            ${this.slider("head", "gqa-head")}${this.slider("n_heads")}${this.slider("head_dim")}${this.slider("n_layers")}
            <div class="lfs-row"><label for="gqa-precision">precision</label><select id="gqa-precision" name="precision">
              <option value="4">fp32, 4 bytes</option><option value="2" selected>bf16, 2 bytes</option>
              <option value="1">fp8 or int8, 1 byte</option></select></div>
          </details>
        </div>`;
      this.input = (name) => this.querySelector(`[name=${name}]`);
      this.addEventListener("input", (event) => (event.target.name === "preset" ? this.preset(event.target.value) : this.update(event.target.name)));
      // The drawing is one target, however narrow a head is: a finger chooses the head that it is over.
      const svg = this.querySelector("svg");
      const pick = (event) => {
        const box = svg.getBoundingClientRect(), last = this.values.n_heads - 1;
        const head = Math.floor(((event.clientX - box.left) / box.width) * (last + 1));
        this.input("head").value = Math.max(0, Math.min(last, head));
        this.update("head");
      };
      svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); pick(event); });
      svg.addEventListener("pointermove", (event) => svg.hasPointerCapture(event.pointerId) && pick(event));
      for (const button of this.querySelectorAll(".gqa-step button"))
        button.addEventListener("click", () => {
          this.input("head").value = this.values.head + Number(button.dataset.by);
          this.update("head");
        });
      addEventListener("resize", () => this.draw());
      this.wanted = 8192; // tokens of context
      this.input("preset").value = "Llama-3-8B";
      this.preset("Llama-3-8B");
    }

    slider(name, extra = "") {
      const label = { head: "look at query head", context: "context in tokens", batch: "conversations" }[name] || name;
      return `<div class="lfs-row ${extra}"><label for="gqa-${name}">${label}</label>` +
        `<input id="gqa-${name}" type="range" name="${name}" min="0" step="1"><output class="lfs-value" for="gqa-${name}"></output></div>`;
    }

    preset(name) {
      const [vocab, dim, layers, heads, kv, ffn, context, tied] = PRESETS[name];
      this.rest = { vocab, ffn, tied }; // what the sliders leave alone
      // The load stays, so that models can be compared: what was asked for, as far as this model can read.
      const tokens = Math.min(context, this.wanted);
      this.values = { n_heads: heads, n_kv_heads: kv, head_dim: dim / heads, n_layers: layers, context: tokens, batch: this.values?.batch ?? 16, head: Math.min(5, heads - 1) };
      this.place();
    }

    choices(name) {
      const v = this.values;
      return { n_heads: HEADS, n_kv_heads: divisors(v.n_heads), head_dim: HEAD_DIMS, n_layers: range(126), context: CONTEXTS, batch: BATCHES, head: range(v.n_heads).map((i) => i - 1) }[name];
    }

    place() {
      for (const name of Object.keys(this.values)) {
        const choices = this.choices(name), input = this.input(name);
        input.max = choices.length - 1;
        input.value = choices.indexOf(this.values[name]);
      }
      this.draw();
    }

    update(name) {
      if (name === "precision") return this.draw();
      const v = this.values;
      v[name] = this.choices(name)[Number(this.input(name).value)];
      if (name === "context") this.wanted = v.context;
      if (["n_heads", "head_dim", "n_layers", "n_kv_heads"].includes(name)) this.input("preset").value = "your own";
      if (name === "n_heads") {
        // the nearest number of key/value heads that divides the new number of query heads
        v.n_kv_heads = divisors(v.n_heads).reduce((a, b) => (Math.abs(b - v.n_kv_heads) < Math.abs(a - v.n_kv_heads) ? b : a));
        v.head = Math.min(v.head, v.n_heads - 1);
      }
      this.place();
    }

    counts() {
      const v = this.values, { vocab, ffn, tied } = this.rest, size = Number(this.input("precision").value);
      const dim = v.n_heads * v.head_dim; // as in every released Llama
      const q = dim * v.n_heads * v.head_dim * v.n_layers, k = dim * v.n_kv_heads * v.head_dim * v.n_layers;
      const params = (tied ? 1 : 2) * vocab * dim + v.n_layers * (3 * dim * ffn + 2 * dim) + dim + 2 * q + 2 * k;
      const token = 2 * v.n_layers * v.n_kv_heads * v.head_dim * size;
      const cache = token * v.context * v.batch, weights = params * size;
      // For one step: a separate embedding table is looked up, not read; a tied one is read, as the last projection.
      const step = weights - (tied ? 0 : vocab * dim * size) + cache;
      const gpus = Math.ceil((weights + cache) / GPU);
      return { group: v.n_heads / v.n_kv_heads, q, k, params, token, cache, weights, gpus, read: step / v.batch, rate: (gpus * BANDWIDTH) / step };
    }

    draw() {
      const v = this.values, c = this.counts();
      for (const name of Object.keys(v)) {
        const input = this.input(name), text = grouped(v[name]);
        input.nextElementSibling.textContent = text;
        input.setAttribute("aria-valuetext", text);
      }
      this.drawHeads(v, c.group);
      this.querySelector(".gqa-reads").textContent =
        `Query head ${v.head} reads key/value head ${v.head} // ${c.group} = ${Math.floor(v.head / c.group)}. ` +
        (c.group === 1 ? "Every head has its own: multi-head." : v.n_kv_heads === 1 ? "All heads share one: multi-query." : `Groups of ${c.group}.`);

      const scale = 100 / Math.max(GPU, c.weights + c.cache);
      this.querySelector(".gqa-weights").style.width = `${c.weights * scale}%`;
      this.querySelector(".gqa-cache").style.width = `${c.cache * scale}%`;
      this.querySelector(".gqa-bar i").style.left = `${GPU * scale}%`; // where the GPU is full
      const gpus = c.gpus;
      const heads = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
      this.querySelector(".gqa-queries").textContent = heads(v.n_heads, "query head");
      this.querySelector(".gqa-keys").textContent = heads(v.n_kv_heads, "key head");
      this.querySelector(".gqa-values").textContent = heads(v.n_kv_heads, "value head");
      this.querySelector(".gqa-sizes").innerHTML =
        `Parameters, all layers: <span data-id="q" data-value="${c.q}">${count(c.q)}</span> each in q_proj and o_proj, ` +
        `<span data-id="k" data-value="${c.k}">${count(c.k)}</span> each in k_proj and v_proj.`;
      this.querySelector(".gqa-fit").textContent =
        `Parameters (grey) ${bytes(c.weights)} and cache (orange) ${bytes(c.cache)}: ` +
        (gpus === 1 ? `${Math.round((100 * (c.weights + c.cache)) / GPU)} % of one GPU of 80 GB.` : `too much for one GPU of 80 GB (the line); it takes at least ${gpus}.`);

      const rows = [
        ["token", "cache per token", `${grouped(c.token)} B`, `2 · ${v.n_layers} layers · ${v.n_kv_heads} heads · ${v.head_dim} · ${this.input("precision").value} B`, c.token],
        ["cache", "cache in all", bytes(c.cache), c.group > 1 ? `${c.group} × smaller than multi-head` : "as large as it gets", c.cache],
        ["read", "read per token written", bytes(c.read), "the parameters are shared by all conversations, the cache is not", c.read],
        ["rate", "tokens/s in each conversation, at most", c.rate >= 100 ? grouped(c.rate) : c.rate.toPrecision(3), gpus === 1 ? "all read once per token, at 3.35 TB/s" : `all read once per token, by ${gpus} GPUs at 3.35 TB/s each, nothing lost between them`, c.rate],
        ["params", "parameters of the model", count(c.params), "feed-forward width and vocabulary as in the model you started from", c.params],
      ];
      this.querySelector("tbody").innerHTML = rows
        .map(([id, name, text, note, value]) => `<tr><td>${name}<small>${note}</small></td><td class="lfs-value" data-id="${id}" data-value="${value}">${text}</td></tr>`)
        .join("");
    }

    drawHeads(v, group) {
      const width = Math.min(640, Math.max(320, this.clientWidth)), step = width / v.n_heads, box = Math.min(step * 0.82, 34), mine = Math.floor(v.head / group);
      const kvWidth = Math.min(step * group * 0.8, 34), centre = (g) => (g + 0.5) * group * step;
      let lines = "", heads = "", kvs = "";
      for (let h = 0; h < v.n_heads; h++) {
        const x = (h + 0.5) * step, on = Math.floor(h / group) === mine, chosen = h === v.head;
        lines += `<line data-from="${h}" data-to="${Math.floor(h / group)}" x1="${x}" y1="46" x2="${centre(Math.floor(h / group))}" y2="100" stroke="var(--lfs-residual)" stroke-width="${chosen ? 3 : 1}" opacity="${on ? 1 : 0.35}"/>`;
        heads += `<rect data-head="${h}" x="${x - box / 2}" y="${chosen ? 6 : 14}" width="${box}" height="${chosen ? 40 : 32}" fill="var(--lfs-query)" opacity="${on ? 1 : 0.35}"/>`;
      }
      for (let g = 0; g < v.n_kv_heads; g++)
        kvs += `<g opacity="${g === mine ? 1 : 0.35}"><rect x="${centre(g) - kvWidth / 2}" y="100" width="${kvWidth}" height="20" fill="var(--lfs-key)"/>` +
          `<rect x="${centre(g) - kvWidth / 2}" y="122" width="${kvWidth}" height="20" fill="var(--lfs-value)"/></g>`;
      const svg = this.querySelector("svg");
      svg.setAttribute("viewBox", `0 0 ${width} 146`);
      svg.setAttribute("aria-label", `${v.n_heads} query heads above ${v.n_kv_heads} key/value heads; lines join each group of ${group} to its own`);
      svg.innerHTML = lines + heads + kvs;
    }
  }
  customElements.define("lfs-gqa", Gqa);
})();
