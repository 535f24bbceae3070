(() => {
  "use strict";
  const root = document.documentElement;
  const show = (language) => {
    root.lang = language;
    root.dir = language === "ar" ? "rtl" : "ltr";
  };
  if (root.dataset.language === "auto") {
    const wanted = (navigator.languages || [navigator.language]).find((each) => /^(ar|en)\b/i.test(each));
    if (wanted) show(wanted.slice(0, 2).toLowerCase());
  }
  document.getElementById("language").addEventListener("click", () => show(root.lang === "ar" ? "en" : "ar"));

  const plot = document.getElementById("plot");
  if (!plot) return;
  const values = JSON.parse(plot.dataset.values);
  const cursor = plot.querySelector(".cursor");
  const told = document.getElementById("plot-told");
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
    const near = values.reduce((best, each) => (Math.abs(each[2] - x) < Math.abs(best[2] - x) ? each : best));
    cursor.setAttribute("x1", near[2]);
    cursor.setAttribute("x2", near[2]);
    cursor.removeAttribute("visibility");
    told.textContent = `${near[0].toLocaleString("en")} · ${near[1].toPrecision(4)}`;
  });
  plot.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    told.textContent = "";
  });
})();
