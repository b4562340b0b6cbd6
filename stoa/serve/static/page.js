"use strict";
// Search by text is a plain form. This adds the rest: keys, captions, questions, explanations, pictures, loops.

const $ = (selector, root = document) => root.querySelector(selector);
const results = $("#results");
document.documentElement.classList.add("js");

const hits = () => [...results.querySelectorAll(".hit")].filter((hit) => hit.checkVisibility());
const current = () => results.querySelector(".hit.current") || hits()[0];

function tell(sentence) {
  $("#problem").textContent = sentence;
  $("#problem").hidden = !sentence;
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("stoa serve does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error || "stoa serve is busy. Try again in a moment.");
}

const about = (hit, text = "") => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ start: Number(hit.dataset.start), end: Number(hit.dataset.end), text }),
});

// One caption, one answer and one complaint a hit.
function say(hit, kind, text, label = "") {
  const said = $(".said", hit), entry = document.createElement("p"), name = document.createElement("span");
  said.querySelectorAll(`.${kind}, .wrong`).forEach((old) => old.remove());
  entry.className = kind;
  name.textContent = label;
  entry.append(name, text);
  said.append(entry);
}

// While it lasts the button says so, and a second press does nothing.
async function busy(button, hit, work) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    say(hit, "wrong", error.message);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

const actions = {
  caption: (hit, button) => busy(button, hit, async () => {
    const answer = await ask(`/videos/${hit.dataset.number}/caption`, about(hit));
    say(hit, "caption", (await answer.json()).text, "Caption");
  }),
  ask: (hit, button) => {
    const form = $(".question", hit);
    form.hidden = !form.hidden;
    button.setAttribute("aria-expanded", String(!form.hidden));
    (form.hidden ? hit : $("input", form)).focus();
  },
  explain: (hit, button) => {
    const figure = $(".explained", hit);
    if (!figure.hidden) {
      figure.hidden = true;
      button.setAttribute("aria-pressed", "false");
      return;
    }
    busy(button, hit, async () => {
      if (!figure.firstChild) {
        const caption = $("#like").hidden ? $("#q").defaultValue : "";
        const answer = await ask(`/videos/${hit.dataset.number}/explain`, about(hit, caption));
        const picture = document.createElement("img");
        picture.src = URL.createObjectURL(await answer.blob());
        picture.alt = "Frames of the clip with what the model sees in them, and the words that it is matched to";
        figure.append(picture);
      }
      figure.hidden = false;
      button.setAttribute("aria-pressed", "true");
    });
  },
};

results.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button) actions[button.dataset.do](choose(button.closest(".hit")), button);
});

results.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target, hit = form.closest(".hit"), question = $("input", form).value.trim();
  if (!question) return;
  busy($("button", form), hit, async () => {
    const answer = await ask(`/videos/${hit.dataset.number}/answer`, about(hit, question));
    say(hit, "answer", (await answer.json()).text, question);
  });
});

// A window is played again and again, unless somebody has gone elsewhere in the video.
function span(video) {
  const hit = video.closest(".hit");
  return video.currentSrc.includes("/part?") ? [0, video.duration] : [Number(hit.dataset.start), Number(hit.dataset.end)];
}

function loop(video) {
  let inside = true;
  const again = () => {
    video.currentTime = span(video)[0];
    video.play().catch(() => {});
  };
  video.addEventListener("seeked", () => {
    const [start, end] = span(video);
    inside = video.currentTime >= start - 0.05 && video.currentTime <= end;
  });
  video.addEventListener("timeupdate", () => {
    if (inside && !video.paused && !video.seeking && video.currentTime >= span(video)[1]) again();
  });
  // Where a browser stops at the end of the window by itself.
  video.addEventListener("pause", () => {
    if (inside && !video.seeking && video.currentTime >= span(video)[1] - 0.02) again();
  });
  video.addEventListener("ended", () => inside && again());
  video.addEventListener("play", () => {
    document.querySelectorAll("video").forEach((other) => other === video || other.pause());
    choose(video.closest(".hit"));
  });
  const last = $("source:last-of-type", video);
  last.addEventListener("error", async () => {
    const why = await ask(last.src, { headers: { Range: "bytes=0-0" } }).catch((error) => error.message);
    say(video.closest(".hit"), "wrong", typeof why === "string" ? why : "This browser does not play the video.");
  });
}

function choose(hit) {
  results.querySelectorAll(".hit").forEach((other) => {
    other.classList.toggle("current", other === hit);
    other.tabIndex = other === hit ? 0 : -1;
  });
  return hit;
}

// Where there is a mouse, controls come with it or with the focus, or they would cover what is to be seen.
function uncover(hit) {
  const video = $("video", hit);
  const show = () => (video.controls = hit.matches(":hover, :focus-within"));
  for (const event of ["mouseenter", "mouseleave", "focusin", "focusout"]) hit.addEventListener(event, () => setTimeout(show));
  show();
}

function begin() {
  results.querySelectorAll("video").forEach(loop);
  if (matchMedia("(hover: hover)").matches) results.querySelectorAll(".hit").forEach(uncover);
  if (hits().length) choose(hits()[0]);
}

async function searchByPicture(file) {
  const most = Number(document.body.dataset.uploadBytes);
  tell("");
  if (!file) return;
  if (file.size > most) return tell(`${file.name} is larger than ${Math.floor(most / 2 ** 20)} MiB, more than is taken.`);
  results.setAttribute("aria-busy", "true");
  try {
    const answer = await ask("/pictures", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    results.innerHTML = await answer.text();
    document.body.classList.remove("start");
    $("#q").value = "";
    $("#like-name").textContent = file.name;
    $("#like-picture").hidden = !file.type.startsWith("image/");
    if (!$("#like-picture").hidden) $("#like-picture").src = URL.createObjectURL(file);
    $("#like").hidden = false;
    begin();
  } catch (error) {
    tell(error.message);
  } finally {
    results.removeAttribute("aria-busy");
  }
}

$("#picture").addEventListener("change", (event) => {
  searchByPicture(event.target.files[0]);
  event.target.value = "";
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  searchByPicture(event.dataTransfer.files[0]);
});
$("#help-button").addEventListener("click", () => $("#help").showModal());

function move(by) {
  const shown = hits(), hit = shown[Math.min(Math.max(shown.indexOf(current()) + by, 0), shown.length - 1)];
  if (hit) choose(hit).focus();
}

function press(name) {
  const button = current() && $(`[data-do=${name}]`, current());
  if (button) button.click();
}

const keys = {
  "/": () => $("#q").select(),
  "?": () => $("#help").showModal(),
  ArrowRight: () => move(document.activeElement.closest(".hit") ? 1 : 0),
  ArrowDown: () => move(document.activeElement.closest(".hit") ? 1 : 0),
  ArrowLeft: () => move(-1),
  ArrowUp: () => move(-1),
  " ": () => {
    const video = current() && $("video", current());
    if (!video) return;
    if (!video.paused) return video.pause();
    const [start, end] = span(video);
    if (video.currentTime < start || video.currentTime >= end) video.currentTime = start;
    video.play().catch(() => {});
  },
  c: () => press("caption"),
  a: () => press("ask"),
  e: () => press("explain"),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#help").open) return;
  const typing = event.target.closest("input, textarea");
  if (typing) {
    const form = typing.closest(".question");
    if (event.key === "Escape" && form) actions.ask(form.closest(".hit"), $("[data-do=ask]", form.closest(".hit")));
    else if (event.key === "ArrowDown" && typing.id === "q") move(0), event.preventDefault();
    return;
  }
  // What has the focus has these keys first.
  if (event.key === " " && event.target.closest("button, summary, a, video")) return;
  if (event.key.startsWith("Arrow") && event.target.closest("video")) return;
  const act = keys[event.key];
  if (!act || (event.key.startsWith("Arrow") && !hits().length)) return;
  event.preventDefault();
  act();
});

begin();
