// Custom resources on stdin, a JSON array; what is wrong with them on stdout: by the schemas of their definitions, and by
// their types, which also know the names of all fields (a cluster would drop a misspelt one without a word).
import { readFileSync } from "node:fs";
import ts from "typescript";

const PACKAGES = {
  "keda.sh": "@kubernetes-models/keda",
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

async function bySchema(object, path) {
  const found = await import(path);
  try {
    new found[object.kind](structuredClone(object)).validate();
    return [];
  } catch (error) {
    return [error.message];
  }
}

function byType(objects, paths) {
  const name = new URL("objects.ts", import.meta.url).pathname;
  const lines = objects.map((one, at) => {
    const { apiVersion, kind, ...fields } = one;
    return `new (await import("${paths[at]}")).${kind}(${JSON.stringify(fields)});`;
  });
  const options = { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
                    target: ts.ScriptTarget.ES2022, noEmit: true, strict: true, skipLibCheck: true, types: [] };
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile;
  const text = `export {};\n${lines.join("\n")}`;
  host.getSourceFile = (file, ...rest) =>
    file === name ? ts.createSourceFile(file, text, ts.ScriptTarget.ES2022) : read(file, ...rest);
  const found = objects.map(() => []);
  for (const one of ts.getPreEmitDiagnostics(ts.createProgram([name], options, host))) {
    const line = one.file ? one.file.getLineAndCharacterOfPosition(one.start).line - 1 : 0;
    found[Math.max(0, line)].push(ts.flattenDiagnosticMessageText(one.messageText, " "));
  }
  return found;
}

const objects = JSON.parse(readFileSync(0, "utf8"));
const paths = objects.map(({ apiVersion, kind }) => `${PACKAGES[apiVersion.split("/")[0]]}/${apiVersion}/${kind}`);
const typed = byType(objects, paths);
const problems = await Promise.all(objects.map(async (one, at) => [...(await bySchema(one, paths[at])), ...typed[at]]));
console.log(JSON.stringify(problems));
