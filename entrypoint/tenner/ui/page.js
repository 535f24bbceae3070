(() => {
  "use strict";
  const root = document.documentElement;
  const show = (language) => {
    root.lang = language;
    root.dir = language === "ar" ? "rtl" : "ltr";
  };
  if (root.dataset.language === "auto") {
    const preferred = (navigator.languages || [navigator.language]).find((each) => /^(ar|en)\b/i.test(each));
    if (preferred) show(preferred.slice(0, 2).toLowerCase());
  }
  // The choice is stored, so that a reload keeps it; a page without storage forgets it.
  try {
    const chosen = sessionStorage.getItem("language");
    if (chosen) show(chosen);
  } catch {
    // no storage here
  }
  document.getElementById("language").addEventListener("click", () => {
    show(root.lang === "ar" ? "en" : "ar");
    try {
      sessionStorage.setItem("language", root.lang);
    } catch {
      // no storage here
    }
  });
  if (root.dataset.refresh) setTimeout(() => location.reload(), 1000 * root.dataset.refresh);

  // A picture is shown large at a click, Enter or the space bar; a click or Esc closes it.
  const enlargeable = ".grid img, .sheet img, .frame";
  const zoom = document.createElement("dialog");
  zoom.append(document.createElement("img"), document.createElement("p"));
  zoom.addEventListener("click", () => zoom.close());
  document.body.append(zoom);
  for (const each of document.querySelectorAll(enlargeable)) {
    if (each.parentElement.closest(enlargeable)) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    each.replaceWith(button);
    button.append(each);
  }
  zoom.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    zoom.close();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".enlarge");
    if (!button) return;
    const picture = button.firstElementChild;
    const shown = picture.querySelector("img") || picture;
    const [large, words] = zoom.children;
    large.src = shown.src;
    large.alt = words.textContent = shown.alt;
    large.className = shown.className;
    zoom.showModal();
  });

  const followPointer = () => {
    const plot = document.getElementById("plot");
    if (!plot) return;
    const values = JSON.parse(plot.dataset.values);
    const cursor = plot.querySelector(".cursor");
    const shownValues = document.getElementById("plot-values");
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
      const near = values.reduce((best, each) => (Math.abs(each[2] - x) < Math.abs(best[2] - x) ? each : best));
      cursor.setAttribute("x1", near[2]);
      cursor.setAttribute("x2", near[2]);
      cursor.removeAttribute("visibility");
      shownValues.textContent = `${near[0].toLocaleString("en")} · ${near[1].toPrecision(4)}`;
    });
    plot.addEventListener("pointerleave", () => {
      cursor.setAttribute("visibility", "hidden");
      shownValues.textContent = "";
    });
  };
  followPointer();

  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });

  const token = new URLSearchParams(location.search).get("token");
  if (!token || !/^https?:$/.test(location.protocol)) return;
  // Below: only where a server with a token shows the page. It has the weights under `checkpoints`.
  for (const each of document.querySelectorAll("a.download")) {
    const name = each.getAttribute("href").split("/").pop();
    each.href = `checkpoints/${name}?token=${encodeURIComponent(token)}`;
  }
  if (!("live" in root.dataset)) return; // the run has ended
  const authorization = { Authorization: `Bearer ${token}` };
  const lost = document.getElementById("lost");
  let etag = "";
  let pause = 2000;

  const replace = (name, html) => {
    const part = document.getElementById(`live-${name}`);
    if (part.dataset.shown === html) return;
    part.dataset.shown = html;
    part.innerHTML = html;
    if (name === "loss") followPointer();
  };
  const look = async () => {
    try {
      const answer = await fetch("live.json", { cache: "no-store", headers: { ...authorization, "If-None-Match": etag } });
      if (answer.ok) {
        const update = await answer.json();
        if (update.outline !== root.dataset.live) {
          setTimeout(() => location.reload(), Math.random() * 3000);
          return;
        }
        etag = answer.headers.get("ETag") || "";
        for (const [name, html] of Object.entries(update.parts)) replace(name, html);
      } else if (answer.status !== 304) throw new Error(answer.statusText);
      lost.hidden = true;
      pause = 2000;
    } catch {
      lost.hidden = false;
      pause = Math.min(pause * 2, 60000);
    }
    setTimeout(look, pause);
  };
  setTimeout(look, 1000);

  const finish = document.getElementById("finish");
  if (!finish) return;
  const button = finish.querySelector("button");
  const status = finish.querySelector("[role=status]");
  finish.hidden = false;
  button.addEventListener("click", async () => {
    if (!confirm(button.dataset[root.lang])) return;
    button.disabled = true;
    let state = "refused";
    try {
      const answer = await fetch("finish", { method: "POST", headers: authorization });
      state = answer.ok ? "accepted" : "refused";
    } catch {
      // the server is gone: refused
    }
    button.disabled = state === "accepted";
    status.replaceChildren(document.getElementById(`finish-${state}`).content.cloneNode(true));
  });
})();
