// What is answered to every request.

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname } = new URL(request.url);
  return new Response(`hello from {{name}} at ${pathname}\n`, {
    headers: { "content-type": "text/plain; charset=utf-8" },
  });
}
