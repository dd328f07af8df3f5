// What a person does with the report: choose, slide, enlarge, sort; then the page says what was seen.
"use strict";
const $ = (id) => document.getElementById(id), seen = {};
const change = (id, value, kind) => { $(id).value = value;
$(id).dispatchEvent(new Event(kind));
};
const cards = () => [...document.querySelectorAll(".card")].filter((card) => !card.hidden).map((card) => card.querySelector("b").textContent);
const covered = () => {
const canvas = document.querySelector(".card:not([hidden]) .redrawn");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return data.filter((_, index) => index % 4 === 3 && data[index] === 255).length / (canvas.width * canvas.height);
};
change("group", "worst_quality", "change");
seen.worst = cards();
change("group", "best_quality", "change");
seen.best = cards();
change("group", "", "change");
seen.all = cards().length;
change("flag", "class_missing", "change");
seen.flagged = cards().length;
change("flag", "", "change");
change("class", "1", "change");
seen.of_class = cards().length;
change("class", "", "change");
seen.hidden = document.querySelector(".card .redrawn").hidden;
change("threshold", "0.25", "input");
seen.low = covered();
change("threshold", "0.75", "input");
seen.high = covered();
seen.value = $("threshold-value").textContent;
$("reset").click();
seen.reset = document.querySelector(".card .redrawn").hidden;
document.querySelector(".card:not([hidden]) .panels").click();
seen.open = $("enlarged").open;
seen.name = $("enlarged-name").textContent;
for (const layer of ["mask", "cam", "truth", "none"]) { document.querySelector(`[value=${layer}]`).click();
seen[layer] = $("stage").children.length;
}
document.querySelector("[value=mask]").click();
change("opacity", "25", "input");
seen.opacity = $("stage").firstChild.style.opacity;
$("next").click();
seen.next = $("enlarged-name").textContent;
$("close").click();
seen.closed = !$("enlarged").open;
const classes = document.querySelector(".sortable");
classes.querySelector("th button").click();
seen.sorted = classes.tBodies[0].rows[0].cells[0].textContent;
const named = (each) => (each.textContent + (each.getAttribute("aria-label") || "") + (each.closest("label") || "")).trim() !== "";
seen.unnamed = [...document.querySelectorAll("button, select, input, [role=img]")].filter((each) => !named(each)).length;
seen.without_alt = [...document.querySelectorAll("img:not([alt])")].length;
// Contrast of texts with what is behind them, by WCAG 2.1; of those that are shown.
const numbers = (color) => color.match(/[\d.]+/g).map(Number);
const luminance = (color) => numbers(color).slice(0, 3).map((each) => each / 255)
  .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
  .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
const behind = (each) => { for (let at = each; at; at = at.parentElement) { const color = getComputedStyle(at).backgroundColor;
if (numbers(color)[3] !== 0) return color;
} return "rgb(255, 255, 255)"; };
const texts = [...document.querySelectorAll("main *")].filter((each) =>
  each.getClientRects().length && !each.closest(".panels, option") && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
seen.contrast = Math.min(...texts.map((each) => { const style = getComputedStyle(each);
const pair = [luminance(each.ownerSVGElement ? style.fill : style.color), luminance(behind(each))].sort((a, b) => b - a);
return (pair[0] + 0.05) / (pair[1] + 0.05);
}));
seen.unreachable = [...document.querySelectorAll("main button, main select, main input, .wide")].filter((each) => each.tabIndex < 0).length;
seen.title = document.title;
seen.width = document.documentElement.scrollWidth;
seen.inner = innerWidth;
const result = document.createElement("pre");
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
