// Draws the latent maps of a fold when it is opened, opens the fold that a link leads to, and
// everything for print.
const maps = new Set(document.querySelectorAll(".map"));

function draw(map) {
  if (!maps.delete(map)) return;
  const { document: bokeh, roots } = JSON.parse(map.querySelector("script").textContent);
  Bokeh.embed.embed_items({ map: bokeh }, [{ docid: "map", roots, root_ids: Object.keys(roots) }]);
}

const folds = [...document.querySelectorAll("details")];
folds.forEach((fold) =>
  fold.addEventListener("toggle", () => fold.open && fold.querySelectorAll(".map").forEach(draw)),
);

function follow() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target && target.querySelector(":scope > details.experiment");
  if (fold) fold.open = true;
}
addEventListener("hashchange", follow);
follow();
// A link to where the page is already changes nothing that could be listened for.
document.addEventListener("click", (event) => event.target.closest("a[href^='#']") && setTimeout(follow));

let opened = [];
addEventListener("beforeprint", () => {
  opened = folds.filter((fold) => !fold.open);
  opened.forEach((fold) => (fold.open = true));
  maps.forEach(draw);
});
addEventListener("afterprint", () => opened.forEach((fold) => (fold.open = false)));
