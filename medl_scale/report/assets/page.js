"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showState = () => button.setAttribute("aria-pressed", String(isDark()));

  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("medl-scale-theme", root.dataset.theme);
    } catch { /* Some browsers keep nothing for files. */ }
    showState();
  });
  system.addEventListener("change", showState);
  showState();

  // The contents tell which section is being read: the last whose heading has gone past the top third.
  const links = new Map(
    [...document.querySelectorAll("#contents a")].map((link) => [link.hash.slice(1), link]),
  );
  const sections = [...document.querySelectorAll("main > section")];
  let waiting = false;
  const follow = () => {
    waiting = false;
    const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 2;
    const passed = sections.filter((one) => one.getBoundingClientRect().top < innerHeight / 3);
    const current = atEnd ? sections.at(-1) : passed.at(-1);
    for (const [id, link] of links) {
      if (current && id === current.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(follow);
    waiting = true;
  }, { passive: true });
  follow();

  // On narrow screens the contents would push the report out of sight.
  const narrow = matchMedia("(max-width: 62rem)");
  const contents = document.querySelector("#contents details");
  const fold = () => { contents.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();

  // Paper cannot be unfolded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });
})();
