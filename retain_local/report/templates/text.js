// The numbers of the token that is pointed at.
(() => {
  const tip = document.getElementById("tip");
  const numbers = new Map();
  const dataOf = text => {
    if (!numbers.has(text)) numbers.set(text, JSON.parse(text.querySelector("script").textContent));
    return numbers.get(text);
  };
  const describe = token => {
    const data = dataOf(token.closest(".text"));
    const at = Number(token.parentNode.dataset.at) + [...token.parentNode.children].indexOf(token);
    const parts = [`position ${at.toLocaleString("en")}`, `held by ${data.held[at]} of ${data.of} heads`];
    if (data.log_beta) parts.push(`log β ${String(data.log_beta[at]).replace("-", "−")} (mean)`);
    if (data.kl) parts.push(`KL ${data.kl[at]}`);
    if (data.recalled) parts.push(`recalled ${data.recalled[at].toLocaleString("en")} times`);
    return parts.join(" · ");
  };
  // mark the tokens that were recalled for the one that is pointed at, and for those that were computed with it
  const mark = token => {
    document.querySelectorAll(".text .r").forEach(one => one.classList.remove("r"));
    const text = token && token.closest(".text");
    const steps = text ? dataOf(text).steps || [] : [];
    if (!steps.length) return;
    const runs = [...text.querySelectorAll("p")].map(run => [Number(run.dataset.at), run]);
    const at = Number(token.parentNode.dataset.at) + [...token.parentNode.children].indexOf(token);
    const step = steps.find(([start, stop]) => start <= at && at < stop);
    for (const [recalled] of step ? step[2] : []) {
      const [start, run] = runs.findLast(([start]) => start <= recalled);
      run.children[recalled - start].classList.add("r");
    }
  };
  document.addEventListener("pointerover", event => {
    const token = event.target.closest(".text i");
    tip.hidden = !token;
    if (token) tip.textContent = describe(token);
    mark(token);
  });
  document.addEventListener("pointermove", event => {
    if (tip.hidden) return;
    const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 20;
    const top = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${top}px`;
  });
})();
