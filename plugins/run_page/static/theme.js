// Light or dark before the first paint: as Airflow's switch says (it shares this origin's storage), else the system.
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function chooseTheme() {
  const chosen = localStorage.getItem("theme");
  const dark = chosen === "dark" || (chosen !== "light" && systemIsDark.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  dispatchEvent(new Event("themechange"));
}

chooseTheme();
systemIsDark.addEventListener("change", chooseTheme);
addEventListener("storage", chooseTheme);
