// Says beside the footer's time how old the page is: a page from the cache is older than the visit.
const rendered = document.getElementById("rendered");
if (rendered) {
  const at = Date.parse(rendered.dateTime);
  const age = document.createElement("span");
  rendered.after(age);
  const show = () => {
    const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
    age.textContent = seconds < 2 ? " (just now)" : ` (${seconds} s ago)`;
  };
  show();
  setInterval(show, 1000);
}
