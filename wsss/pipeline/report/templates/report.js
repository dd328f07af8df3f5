"use strict";
{
  const find = (id) => document.getElementById(id);
  const { colors, pictures } = JSON.parse(find("data").textContent);
  const cards = pictures.map((_, index) => find("picture-" + index));
  const palette = colors.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  let threshold = null; // null: the masks as written
  let order = [];
  let current = 0;

  for (const picture of pictures) {
    picture.scores = Uint8Array.from(atob(picture.scores), (each) => each.charCodeAt(0));
  }

  // Strongest class score and its class at each pixel; of equal scores the first class wins.
  const strongest = (picture, pixel) => {
    const size = picture.size[0] * picture.size[1];
    let best = 0, score = 0;
    picture.class_ids.forEach((class_id, row) => {
      const value = picture.scores[row * size + pixel];
      if (value > score) { score = value; best = class_id + 1; }
    });
    return [score / 255, best];
  };

  const paint = (canvas, picture, color) => {
    const [width, height] = picture.size;
    canvas.width = width;
    canvas.height = height;
    const image = new ImageData(width, height);
    for (let pixel = 0; pixel < width * height; pixel++) {
      image.data.set(color(...strongest(picture, pixel)), 4 * pixel);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  };

  const heat = (score) => [0.75, 0.5, 0.25].map((center) => 255 * Math.min(1, Math.max(0, 1.5 - 4 * Math.abs(score - center))));
  const paintHeat = (canvas, picture) => paint(canvas, picture, (score) => [...heat(score), 255]);
  const paintMask = (canvas, picture) =>
    paint(canvas, picture, (score, label) => (score > threshold ? [...palette[label], 255] : [0, 0, 0, 0]));

  const redraw = (index) => {
    const canvas = cards[index].querySelector(".redrawn");
    const written = threshold === null;
    canvas.hidden = written;
    canvas.parentNode.querySelector(".mask").hidden = !written;
    if (!written) paintMask(canvas, pictures[index]);
  };

  const list = () => {
    const group = find("group").value, classId = find("class").value, flag = find("flag") ? find("flag").value : "";
    order = pictures.map((_, index) => index).filter((index) => {
      const { groups, classes, flags } = pictures[index];
      return (!group || group in groups) && (!classId || classes.includes(Number(classId))) && (!flag || flags.includes(flag));
    });
    if (group) order.sort((a, b) => pictures[a].groups[group] - pictures[b].groups[group]);
    cards.forEach((card) => { card.hidden = true; });
    order.forEach((index) => {
      cards[index].hidden = false;
      cards[index].parentNode.append(cards[index]);
    });
    find("shown").textContent = `${order.length} of the ${pictures.length} pictures of this page.`;
  };

  const slide = (value) => {
    threshold = value;
    find("threshold-value").textContent = value === null ? "as written" : value.toFixed(2);
    if (find("relabel-threshold")) find("relabel-threshold").textContent = Number(value === null ? find("threshold").defaultValue : value).toFixed(2);
    pictures.forEach((_, index) => redraw(index));
    if (find("enlarged").open) enlarge(current);
  };

  const enlarge = (index) => {
    current = index;
    const picture = pictures[index], card = cards[index];
    const layer = document.querySelector("[name=layer]:checked").value;
    const stage = find("stage");
    find("enlarged-name").textContent = picture.id;
    stage.style.cssText = card.style.cssText;
    const ratio = picture.size[0] / picture.size[1];
    stage.style.aspectRatio = ratio;
    stage.style.width = `min(100%, ${60 * ratio}vh)`;
    let top = null;
    if (layer === "cam") {
      top = document.createElement("canvas");
      paintHeat(top, picture);
    } else if (layer === "mask" && threshold !== null) {
      top = document.createElement("canvas");
      paintMask(top, picture);
    } else if (layer !== "none") {
      const masks = card.querySelectorAll(".mask");
      top = layer === "mask" ? masks[0] : masks[1];
      top = top ? top.cloneNode() : null;
    }
    if (top) {
      top.hidden = false;
      top.style.opacity = find("opacity").value / 100;
    }
    stage.replaceChildren(...(top ? [top] : []));
    stage.setAttribute("role", "img");
    stage.setAttribute("aria-label", `${picture.id}, ${layer === "none" ? "photograph" : layer + " over the photograph"}`);
    if (!find("enlarged").open) find("enlarged").showModal();
  };

  const step = (by) => {
    const place = order.indexOf(current);
    enlarge(order[(place + by + order.length) % order.length]);
  };

  cards.forEach((card, index) => {
    paintHeat(card.querySelector(".cam"), pictures[index]);
    card.querySelector(".panels").addEventListener("click", () => enlarge(index));
    const ratio = pictures[index].size[0] / pictures[index].size[1];
    card.querySelectorAll(".panel").forEach((panel) => { panel.style.aspectRatio = ratio; });
  });
  for (const id of ["group", "class", "flag"]) if (find(id)) find(id).addEventListener("change", list);
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("threshold").addEventListener("input", (event) => slide(Number(event.target.value)));
  find("reset").addEventListener("click", () => slide(null));
  find("opacity").addEventListener("input", () => enlarge(current));
  document.querySelectorAll("[name=layer]").forEach((each) => each.addEventListener("change", () => enlarge(current)));
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => find("enlarged").close());
  find("enlarged").addEventListener("keydown", (event) => {
    if (event.target.tagName !== "INPUT" && ["ArrowLeft", "ArrowRight"].includes(event.key)) step(event.key === "ArrowLeft" ? -1 : 1);
  });
  document.body.classList.add("has-script");
  find("controls").hidden = false;
  list();
}
