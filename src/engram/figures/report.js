// Draws each latent map when it comes near the window, and all of them before printing.
const maps = new Set(document.querySelectorAll(".map"));

function draw(map) {
  if (!maps.delete(map)) return;
  const { document: bokeh, roots } = JSON.parse(map.querySelector("script").textContent);
  Bokeh.embed.embed_items({ map: bokeh }, [{ docid: "map", roots, root_ids: Object.keys(roots) }]);
}

const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "800px" },
);
maps.forEach((map) => near.observe(map));
addEventListener("beforeprint", () => maps.forEach(draw));
