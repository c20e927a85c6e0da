// fetch and https.get as any program uses them: proxy and trust come from the environment.
import https from "node:https";
import http from "node:http";

const headers = { authorization: "Bearer static-canary-bearer", "x-api-key": "static-canary-key", cookie: "session=static-canary-cookie" };
const [secure, plain] = process.argv.slice(2);
for (const url of [secure, plain]) {
  const answer = await fetch(`${url}/fetch?api_key=static-canary-query`, { method: "POST", headers, body: "hello" });
  console.log(answer.status, (await answer.json()).body_len);
}
const get = (module, url) => new Promise((resolve, reject) => {
  module.get(`${url}/get?api_key=static-canary-query`, { headers }, (answer) => { answer.resume(); answer.on("end", () => resolve(answer.statusCode)); }).on("error", reject);
});
console.log(await get(https, secure));
console.log(await get(http, plain));
