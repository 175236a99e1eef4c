// Three things that a style sheet cannot do: on a phone a table is a card for each row, and each cell shows the heading
// of its column; on paper nothing is folded; the excerpts that the search shows have no raw TeX in them.
(() => {
  const label = () => {
    for (const table of document.querySelectorAll("article table.table")) {
      const names = [...table.querySelectorAll("thead th")].map((th) => th.textContent.trim());
      for (const row of table.querySelectorAll("tbody tr"))
        [...row.children].forEach((cell, i) => {
          if (!cell.textContent.trim() && !cell.querySelector("img, svg")) cell.dataset.empty = "";
          else if (names[i]) cell.dataset.label = names[i];
        });
    }
  };

  const SIGNS = { varepsilon: "ε", infty: "∞", cdot: "·", odot: "⊙", times: "×", le: "≤", ge: "≥", sqrt: "√", sum: "∑", top: "ᵀ", to: "→", dots: "…", ldots: "…", mathcal: "", alpha: "α", beta: "β", delta: "δ", theta: "θ", varphi: "φ", mu: "μ", sigma: "σ", tau: "τ", pm: "±", approx: "≈", ell: "ℓ" };
  const plain = (tex) => tex
    .replace(/\\textcolor\{[^}]*\}/g, "")
    .replace(/\\(?:tag|label)\{[^}]*\}|\\(?:begin|end)\{[^}]*\}/g, "")
    .replace(/\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}/g, "$1/$2")
    .replace(/\\([A-Za-z]+)/g, (_, name) => SIGNS[name] ?? "")
    .replace(/\\.|[{}&]/g, " ").replace(/\s+/g, " ").trim();
  // Sphinx takes the text of a page as it was written, formulas between \( and \) among it.
  const cleanSearch = () => {
    if (typeof Search === "undefined" || !Search.htmlToText) return;
    const text = Search.htmlToText;
    Search.htmlToText = (...page) =>
      text(...page).replace(/\\\((.*?)\\\)|\\\[([\s\S]*?)\\\]/g, (_, a, b) => plain(a ?? b));
  };

  const start = () => { label(); cleanSearch(); };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("article details:not([open])")) {
      details.open = details.dataset.wasClosed = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const details of document.querySelectorAll("article details[data-was-closed]")) {
      details.open = false;
      delete details.dataset.wasClosed;
    }
  });
})();
