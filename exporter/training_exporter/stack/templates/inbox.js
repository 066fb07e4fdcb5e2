// Shows new messages without a reload, times in the reader's own time zone, and mails in their full height.
"use strict";

const INTERVAL_MS = 2000;
const list = document.getElementById("messages");

function dress(root) {
  for (const time of root.querySelectorAll("time:not([title])")) {
    time.title = time.dateTime;
    time.textContent = new Date(time.dateTime).toLocaleString();
  }
  for (const frame of root.querySelectorAll("iframe")) {
    frame.addEventListener("load", () => fit(frame));
    fit(frame);
  }
  document.getElementById("empty").hidden = list.querySelector("article") !== null;
}

function fit(frame) {
  const page = frame.contentDocument && frame.contentDocument.documentElement;
  if (!page) return;
  frame.style.height = "0"; // A page is never shorter than its frame.
  frame.style.height = `${Math.min(page.scrollHeight + 2, 1200)}px`;
}

function newest() {
  const first = list.querySelector("article");
  return first ? first.dataset.id : "0";
}

async function poll() {
  try {
    const answer = await fetch(`new?after=${newest()}&epoch=${list.dataset.epoch}`);
    if (answer.status === 409) return location.reload();
    if (answer.ok) {
      const fragment = document.createElement("template");
      fragment.innerHTML = await answer.text();
      const count = fragment.content.querySelectorAll("article").length;
      if (count) {
        list.prepend(fragment.content);
        dress(list);
        document.title = `(${newest()}) Inbox`;
      }
    }
    document.body.classList.toggle("offline", !answer.ok);
  } catch {
    document.body.classList.add("offline"); // The inbox has ended, or is being restarted.
  }
  setTimeout(poll, INTERVAL_MS);
}

dress(list);
setTimeout(poll, INTERVAL_MS);
