(function () {
  "use strict";
  var cards = Array.from(document.querySelectorAll("[data-tasks]"));
  var buttons = Array.from(document.querySelectorAll("button[data-task]"));
  var order = document.querySelector("select[data-order]");
  var blind = document.querySelector("button[data-unseen]");
  var toast = document.querySelector(".toast");
  var calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  function tell(words) {
    toast.textContent = words;
    toast.classList.add("shown");
    setTimeout(function () { toast.classList.remove("shown"); }, 2500);
  }

  // Which cards, in which order.
  function show(task) {
    cards.forEach(function (card) {
      card.hidden = task !== "" && JSON.parse(card.dataset.tasks).indexOf(task) < 0;
    });
    buttons.forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.task === task));
    });
  }
  buttons.forEach(function (button) {
    button.addEventListener("click", function () { show(button.dataset.task); });
  });
  if (order) {
    order.addEventListener("change", function () {
      var sign = { given: 0, best: -1, worst: 1 }[order.value];
      cards.sort(function (one, other) {
        var byTotal = sign * (Number(one.dataset.total) - Number(other.dataset.total));
        return byTotal || Number(one.dataset.place) - Number(other.dataset.place);
      }).forEach(function (card) { card.parentNode.appendChild(card); });
    });
  }
  function look() {
    var on = document.body.classList.toggle("blind");
    blind.setAttribute("aria-pressed", String(on));
  }
  function tags() {
    var on = document.body.classList.toggle("tags");
    document.querySelectorAll("button[data-tags]").forEach(function (button) {
      button.textContent = on ? "as read" : "as written";
    });
  }
  if (blind) blind.addEventListener("click", look);

  // What plays: a clip whose bytes stand in the page, or the frames at their times.
  function playerOf(element) {
    var card = element.closest(".card"), player = card && card.querySelector(".player");
    if (!player) return null;
    if (!player.api) player.api = player.dataset.clip ? clip(player) : film(player);
    return player.api;
  }
  function clip(player) {
    var video = player.querySelector("video");
    var bytes = Uint8Array.from(atob(player.dataset.clip), function (c) { return c.charCodeAt(0); });
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    return {
      seek: function (seconds) { video.currentTime = seconds; video.play().catch(function () {}); },
      toggle: function () { if (video.paused) video.play().catch(function () {}); else video.pause(); }
    };
  }
  function film(player) {
    var times = JSON.parse(player.dataset.times), timer = 0, at = 0;
    var use = player.querySelector("use"), range = player.querySelector("input");
    var said = player.querySelector("output"), button = player.querySelector("button");
    var stem = use.getAttribute("href").replace(/\d+$/, "");
    function to(frame) {
      at = frame;
      use.setAttribute("href", stem + frame);
      range.value = frame;
      said.textContent = times[frame].toFixed(1) + " s";
    }
    function pause() { clearTimeout(timer); timer = 0; button.textContent = "▶"; }
    function play() {
      button.textContent = "❚❚";
      var wait = at + 1 < times.length ? 1000 * (times[at + 1] - times[at]) : 0;
      if (!wait) return pause();
      timer = setTimeout(function () { to(at + 1); play(); }, Math.min(wait, 700));
    }
    range.addEventListener("input", function () { pause(); to(Number(range.value)); });
    return {
      seek: function (seconds) {
        var nearest = 0;
        times.forEach(function (time, i) {
          if (Math.abs(time - seconds) < Math.abs(times[nearest] - seconds)) nearest = i;
        });
        pause(); to(nearest); play();
      },
      toggle: function () {
        if (timer) return pause();
        if (at + 1 === times.length) to(0);
        play();
      }
    };
  }
  document.querySelectorAll(".player").forEach(function (player) {
    if (!player.dataset.clip) playerOf(player);
    else player.querySelector("video").addEventListener("pointerdown", function () { playerOf(player); });
  });
  if ("IntersectionObserver" in window) {
    var watcher = new IntersectionObserver(function (seen) {
      seen.forEach(function (each) {
        if (each.isIntersecting) { playerOf(each.target); watcher.unobserve(each.target); }
      });
    });
    document.querySelectorAll(".player[data-clip]").forEach(function (each) { watcher.observe(each); });
  }

  // A claim, its picture and its sentence light up together.
  function light(side, number, on) {
    side.querySelectorAll('[data-lit="' + number + '"]').forEach(function (each) {
      (each.closest("figure, .passage") || each).classList.toggle("lit", on);
    });
  }
  ["pointerover", "focusin", "pointerout", "focusout"].forEach(function (kind) {
    document.addEventListener(kind, function (event) {
      var one = event.target.closest && event.target.closest("[data-lit]");
      if (one) light(one.closest(".side, .card"), one.dataset.lit, /over|in$/.test(kind));
    });
  });

  // A card as a picture: the browser draws it, as it is, into an image of its own.
  function copy(card) {
    var host = document.createElement("div"), copied = card.cloneNode(true);
    host.className = "page shot " + document.body.className;
    copied.querySelectorAll("button").forEach(function (button) {
      if (!button.dataset.seek) return button.remove();
      var span = document.createElement("span");
      span.className = button.className;
      span.textContent = button.textContent;
      button.replaceWith(span);
    });
    host.appendChild(copied);
    document.body.appendChild(host);
    var width = host.offsetWidth, height = Math.ceil(copied.getBoundingClientRect().height) + 32;
    host.insertBefore(document.querySelector("style").cloneNode(true), host.firstChild);
    var space = document.querySelector("svg").namespaceURI;
    var words = '<svg xmlns="' + space + '" width="' + width + '" height="' + height +
      '"><foreignObject width="100%" height="100%">' +
      new XMLSerializer().serializeToString(host).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "") +
      "</foreignObject></svg>";
    host.remove();
    var scale = Math.min(2, Math.sqrt(30e6 / (width * height)));
    var image = new Image();
    var drawn = new Promise(function (done, failed) {
      image.onload = function () {
        var canvas = document.createElement("canvas");
        canvas.width = Math.round(width * scale);
        canvas.height = Math.round(height * scale);
        var pen = canvas.getContext("2d");
        pen.fillStyle = getComputedStyle(document.body).backgroundColor;
        pen.fillRect(0, 0, canvas.width, canvas.height);
        pen.drawImage(image, 0, 0, canvas.width, canvas.height);
        try {
          canvas.toBlob(function (blob) { if (blob) done(blob); else failed(); }, "image/png");
        } catch (error) { failed(error); }
      };
      image.onerror = failed;
    });
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(words);
    var put = window.ClipboardItem && navigator.clipboard
      ? navigator.clipboard.write([new ClipboardItem({ "image/png": drawn })])
      : Promise.reject();
    put.then(function () { tell("Copied as a picture"); }, function () {
      drawn.then(function (blob) {
        var link = document.createElement("a");
        link.href = URL.createObjectURL(blob);
        link.download = card.id + ".png";
        link.click();
        tell("Saved as " + card.id + ".png");
      }, function () { tell("This browser cannot draw a card: take a screenshot"); });
    });
  }

  function act(event) {
    var one = event.target.closest("[data-seek], [data-copy], [data-play], [data-tags]");
    if (!one) return;
    if (one.dataset.tags !== undefined) return tags();
    if (one.dataset.copy !== undefined) return copy(one.closest(".card"));
    var player = playerOf(one);
    if (!player) return;
    if (one.dataset.play !== undefined) return player.toggle();
    player.seek(Number(one.dataset.seek));
    one.closest(".card").querySelector(".player")
      .scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  }
  document.addEventListener("click", act);

  // By keys.
  function current() {
    var shown = cards.filter(function (card) { return !card.hidden; });
    var focused = document.activeElement && document.activeElement.closest(".card");
    if (focused) return [shown, shown.indexOf(focused)];
    return [shown, shown.findIndex(function (card) { return card.getBoundingClientRect().bottom > 90; })];
  }
  function step(by) {
    var found = current(), focused = document.activeElement.closest(".card");
    var card = found[0][found[1] + (focused ? by : Math.min(by, 0))];
    if (!card) return;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  }
  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, video")) return;
    if (event.key === "Enter" && event.target.matches("circle[data-seek]")) return act(event);
    var found = current(), card = found[0][found[1]];
    var keys = {
      j: function () { step(1); },
      k: function () { step(-1); },
      c: function () { if (card && card.querySelector("[data-copy]")) copy(card); },
      p: function () { var player = card && playerOf(card.firstElementChild); if (player) player.toggle(); },
      t: tags,
      w: function () { if (blind) look(); }
    };
    if (keys[event.key]) keys[event.key]();
  });
})();
