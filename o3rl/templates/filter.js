(function () {
  var cards = Array.from(document.querySelectorAll("[data-tasks]"));
  var buttons = Array.from(document.querySelectorAll("button[data-task]"));
  var order = document.querySelector("select[data-order]");
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
      cards.slice().sort(function (one, other) {
        var byTotal = sign * (Number(one.dataset.total) - Number(other.dataset.total));
        return byTotal || Number(one.dataset.place) - Number(other.dataset.place);
      }).forEach(function (card) { card.parentNode.appendChild(card); });
    });
  }
})();
