// <lfs-account>: the logits of a few tokens as sums of what the sub-layers of a real model wrote. The reader chooses the
// writings that count. The numbers are those that a notebook cell computed; without this script a table is shown.
(() => {
  const STYLE = `
    .lfs-account .parts { display: flex; flex-wrap: wrap; gap: .4rem .6rem; margin: .5rem 0; }
    .lfs-account .bars { display: grid; grid-template-columns: minmax(4.5rem, max-content) 1fr 3.4rem; gap: .35rem .7rem; margin: .8rem 0; }
    .lfs-account .bars > div { display: contents; }
    .lfs-account .bars code { background: none; border: 0; color: var(--lfs-ink); font-size: 1rem; padding: 0; white-space: nowrap; }
    .lfs-account .bars .track { align-self: center; background: linear-gradient(var(--lfs-faint), var(--lfs-faint)) center / 1px 100% no-repeat; height: 1.1rem; position: relative; }
    .lfs-account .bars i { background: var(--lfs-residual); border-radius: 2px; height: 100%; position: absolute; transition: left .15s, width .15s; }
    .lfs-account .bars .best i { background: var(--lfs-real); }
    .lfs-account .bars .best code { font-weight: 700; }
    .lfs-account .bars span { font-variant-numeric: tabular-nums; text-align: right; }
    html[data-theme="dark"] .bd-content div.cell_output .text_html:has(lfs-account) { background: none; color: inherit; padding: 0; }`;
  const PARTS = ["row of the table", "attention", "feed-forward"];
  const show = (value) => value.toFixed(1).replace(/^-0\.0$/, "0.0").replace("-", "−");

  class Account extends HTMLElement {
    connectedCallback() {
      if (this.names) return;
      [this.names, this.numbers] = JSON.parse(this.dataset.account);
      this.blocks = (this.numbers.length - 1) / 2;
      this.state = { from: 0, to: this.blocks - 1, parts: [true, true, true] };
      const slider = (key, label) => `<div class="lfs-row"><label for="lfs-account-${key}">${label}</label>
        <input id="lfs-account-${key}" type="range" data-key="${key}" min="0" max="${this.blocks - 1}" step="1"><output class="lfs-value" data-shown="${key}"></output></div>`;
      const box = document.createElement("div");
      box.className = "lfs-widget lfs-account";
      box.innerHTML = `<style>${STYLE}</style>
        <p class="lfs-note">Which writings shall count? The division by r stays that of the whole sum.</p>
        <div class="parts" role="group" aria-label="what counts">${PARTS.map((name, i) => `<button type="button" data-part="${i}">${name}</button>`).join("")}
          <button type="button" data-reset>all</button></div>
        ${slider("from", "from block")}${slider("to", "to block")}
        <div class="bars" aria-live="polite"></div>`;
      this.prepend(box);
      box.append(this.querySelector("details"));
      box.addEventListener("input", (event) => {
        const { key } = event.target.dataset;
        const value = Number(event.target.value);
        const other = key === "from" ? "to" : "from";
        const meets = key === "from" ? Math.max(this.state.to, value) : Math.min(this.state.from, value);
        Object.assign(this.state, { [key]: value, [other]: meets });
        this.draw();
      });
      box.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        if ("reset" in button.dataset) Object.assign(this.state, { from: 0, to: this.blocks - 1, parts: [true, true, true] });
        else this.state.parts[button.dataset.part] = !this.state.parts[button.dataset.part];
        this.draw();
      });
      this.draw();
    }

    counts(writing) {
      const { from, to, parts } = this.state;
      if (writing === 0) return parts[0];
      const block = Math.floor((writing - 1) / 2);
      return from <= block && block <= to && parts[writing % 2 ? 1 : 2];
    }

    draw() {
      const { from, to, parts } = this.state;
      for (const key of ["from", "to"]) {
        this.querySelector(`[data-key="${key}"]`).value = this.state[key];
        this.querySelector(`[data-shown="${key}"]`).textContent = this.state[key];
      }
      for (const button of this.querySelectorAll("[data-part]")) button.setAttribute("aria-pressed", parts[button.dataset.part]);
      const sums = this.names.map((_, token) => this.numbers.reduce((sum, row, i) => sum + (this.counts(i) ? row[token] : 0), 0));
      const reach = Math.max(10, ...sums.map(Math.abs));
      const best = sums.indexOf(Math.max(...sums));
      this.querySelector(".bars").replaceChildren(...sums.map((sum, token) => {
        const row = document.createElement("div");
        row.className = token === best ? "best" : "";
        row.dataset.token = this.names[token];
        row.dataset.logit = sum;
        row.innerHTML = `<code></code><div class="track"><i></i></div><span>${show(sum)}</span>`;
        row.querySelector("code").textContent = this.names[token];
        const width = (50 * Math.abs(sum)) / reach;
        Object.assign(row.querySelector("i").style, { left: `${sum < 0 ? 50 - width : 50}%`, width: `${width}%` });
        return row;
      }));
      Object.assign(this.dataset, { from, to, parts: parts.map(Number).join("") });
    }
  }

  if (!customElements.get("lfs-account")) customElements.define("lfs-account", Account);
})();
