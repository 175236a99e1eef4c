/* Two figures of the chapter "A whole Llama on one page".

   <lfs-lens> and <lfs-temperature> wrap a table of numbers that a notebook cell computed from the real model. Without
   this script the reader unfolds the table; with it the table becomes a slider. The numbers in the page are the only ones.
   Both say what they show in their rows' data-token and data-p.                                                        */

const WHOLE_STYLE = `
  .lfs-whole-bars { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr 3.6rem; gap: 0.3rem 0.7rem; margin: 0.7rem 0; }
  .lfs-whole-bars > div { display: contents; }
  .lfs-whole-bars code { color: var(--lfs-ink); background: none; border: 0; font-size: 1rem; padding: 0; white-space: nowrap; }
  .lfs-whole-bars i { align-self: center; background: var(--lfs-real); border-radius: 2px; height: 0.95rem; min-width: 1px; transition: width 0.15s; }
  .lfs-whole-bars span { font-variant-numeric: tabular-nums; text-align: right; }
  .lfs-whole-bars .answer code { color: var(--lfs-value-text); font-weight: 700; }
  .lfs-whole-bars .answer i { background: var(--lfs-value); }
  .lfs-whole-bars .rest code { font-family: inherit; color: var(--lfs-residual-text); }
  .lfs-whole-bars .rest i { background: var(--lfs-residual); }
  /* In the dark the theme puts HTML that a cell made on white paper; these figures know the dark themselves. */
  html[data-theme="dark"] .bd-content div.cell_output .text_html:has(lfs-lens, lfs-temperature):not(:has(table.dataframe)) { background: none; color: inherit; padding: 0; }
  .lfs-whole-buttons { display: flex; flex-wrap: wrap; gap: 0.5rem; }`;

class WholeFigure extends HTMLElement {
  connectedCallback() {
    if (this.querySelector(".lfs-widget")) return;
    this.table = this.querySelector("table");
    if (!this.table) return;
    this.read();
    const box = document.createElement("div");
    box.className = "lfs-widget";
    box.innerHTML = `<style>${WHOLE_STYLE}</style>
      <div class="lfs-row"><label>${this.label}</label><input type="range" aria-label="${this.label}"><output class="lfs-value"></output></div>
      <div class="lfs-whole-bars" aria-live="polite"></div><p class="lfs-note"></p>`;
    this.prepend(box);
    box.append(this.querySelector("details"));
    this.slider = box.querySelector("input");
    Object.assign(this.slider, this.range);
    this.slider.addEventListener("input", () => this.show(+this.slider.value));
    this.extra?.(box.querySelector(".lfs-note"));
    this.show(+this.slider.value);
  }

  cells(row) {
    return [...row.children].map((cell) => cell.textContent);
  }

  bars(rows) { // [{token, p, kind}]
    this.querySelector(".lfs-whole-bars").replaceChildren(...rows.map(({ token, p, kind = "" }) => {
      const row = document.createElement("div");
      row.className = kind;
      row.dataset.token = token;
      row.dataset.p = p.toFixed(this.digits);
      row.append(document.createElement("code"), document.createElement("i"), document.createElement("span"));
      row.children[0].textContent = token;
      row.children[1].style.width = `${100 * p}%`;
      row.children[2].textContent = this.shown(p);
      return row;
    }));
  }

  shown(p) { // a probability, to as many digits as the table has
    const least = 10 ** -this.digits;
    return p < least / 2 ? `<${least.toFixed(this.digits)}` : p.toFixed(this.digits);
  }

  say(value, note) {
    this.querySelector("output").textContent = value;
    this.slider.setAttribute("aria-valuetext", value);
    this.querySelector(".lfs-note").innerHTML = note;
  }
}

/* What would the model answer if it stopped here? Rows: blocks passed, rank, probability, five guesses. */
class Lens extends WholeFigure {
  label = "stop after";
  digits = 2;

  read() {
    this.steps = [...this.table.querySelectorAll("tr")].slice(1).map((row) => {
      const [, rank, p] = this.cells(row);
      const guesses = [...row.querySelectorAll("span")].map((s) => ({ token: s.textContent, p: +s.dataset.p }));
      return { rank: +rank, p: +p, guesses };
    });
    this.range = { min: 0, max: this.steps.length - 1, step: 1, value: 0 };
  }

  show(n) {
    const { rank, p, guesses } = this.steps[n];
    const answer = this.dataset.answer;
    this.bars(guesses.map((g) => ({ ...g, kind: g.token === answer ? "answer" : "" })));
    const place = rank < 100 ? `number ${rank}` : `about number ${rank.toLocaleString("en")}`;
    this.dataset.rank = rank;
    this.say(n === 1 ? "1 block" : `${n} blocks`,
      `<code>${answer}</code> is ${place} on the list, probability ${this.shown(p)}.`);
  }

  extra(note) {
    const play = document.createElement("button");
    play.textContent = "Play";
    play.addEventListener("click", () => {
      clearInterval(this.timer);
      this.slider.value = 0;
      this.show(0);
      this.timer = setInterval(() => {
        const next = +this.slider.value + 1;
        if (next > this.slider.max || !this.isConnected) return clearInterval(this.timer);
        this.slider.value = next;
        this.show(next);
      }, 250);
    });
    this.slider.addEventListener("pointerdown", () => clearInterval(this.timer));
    this.slider.addEventListener("keydown", () => clearInterval(this.timer));
    const buttons = document.createElement("div");
    buttons.className = "lfs-whole-buttons";
    buttons.append(play);
    note.after(buttons);
  }
}

/* softmax(logits / T) of the real logits. Rows: token, logit less the best. data-tail: log sum exp(logit / T) of all others. */
class Temperature extends WholeFigure {
  label = "temperature";
  digits = 3;

  read() {
    this.tokens = [...this.table.querySelectorAll("tr")].slice(1).map((row) => this.cells(row))
      .map(([token, logit]) => ({ token, logit: +logit }));
    const [names, logits] = JSON.parse(this.dataset.more); // less probable tokens, to be drawn but not shown
    this.rare = names.map((token, i) => ({ token, logit: logits[i] }));
    this.tail = this.dataset.tail.split(" ").map(Number);
    this.range = { min: 1, max: this.tail.length, step: 1, value: 10 };
  }

  show(n) {
    const t = n / 10;
    const weights = this.tokens.map(({ logit }) => Math.exp(logit / t));
    const rest = Math.exp(this.tail[n - 1]);
    const sum = weights.reduce((a, b) => a + b, rest);
    this.p = weights.map((weight) => weight / sum);
    this.rareP = this.rare.map(({ logit }) => Math.exp(logit / t) / sum);
    this.bars([
      ...this.tokens.map(({ token }, i) => ({ token, p: this.p[i] })),
      { token: `${(+this.dataset.rest).toLocaleString("en")} others`, p: rest / sum, kind: "rest" },
    ]);
    const first = `<code>${this.tokens[0].token}</code> takes ${this.shown(this.p[0])}`;
    const others = `the tokens outside the first ${this.p.length} take ${this.shown(rest / sum)}`;
    this.say(t.toFixed(1), t < 0.75 ? `Cold: ${first}. Nearly every draw is safe, and the same.`
      : t <= 1.25 ? `${n === 10 ? "The model's own probabilities" : "Near the model's own probabilities"}: ${first}, ${others}.`
        : `Hot: ${first}, ${others}. Draw a few: most words do not fit.`);
  }

  extra(note) {
    const draw = document.createElement("button");
    draw.textContent = "Draw 10 tokens";
    const drawn = document.createElement("p");
    drawn.setAttribute("aria-live", "polite");
    draw.addEventListener("click", () => {
      drawn.textContent = Array.from({ length: 10 }, () => this.draw(Math.random())).join("  ");
    });
    this.slider.addEventListener("input", () => { drawn.textContent = ""; });
    const buttons = document.createElement("div");
    buttons.className = "lfs-whole-buttons";
    buttons.append(draw);
    note.after(buttons, drawn);
  }

  draw(u) { // u: uniform in [0, 1)
    for (let i = 0; i < this.p.length; i++) if ((u -= this.p[i]) < 0) return this.tokens[i].token;
    for (let i = 0; i < this.rare.length; i++) if ((u -= this.rareP[i]) < 0) return this.rare[i].token;
    return "(rarer)";
  }
}

customElements.define("lfs-lens", Lens);
customElements.define("lfs-temperature", Temperature);
