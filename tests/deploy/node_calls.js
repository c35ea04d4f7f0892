// Calls a server by gRPC's own library for Node, from the .proto files: `node node_calls.js PROTO ADDRESS MODEL`.
// Reads a row of numbers from standard input, as JSON, and writes what it found to standard output.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const [proto, address, model] = process.argv.slice(2);

const definition = loader.loadSync(
  ["pellucid/v1/explanation_service.proto", "pellucid/v1/model_service.proto"],
  { includeDirs: [proto], keepCase: true, defaults: true, enums: String, longs: Number });
const v1 = grpc.loadPackageDefinition(definition).pellucid.v1;
const plain = grpc.credentials.createInsecure();
const explanations = new v1.ExplanationService(address, plain);
const models = new v1.ModelService(address, plain);
const deadline = () => ({ deadline: Date.now() + 120000 });

const unary = (stub, rpc, request) => new Promise((resolve, reject) =>
  stub[rpc](request, new grpc.Metadata(), deadline(), (error, reply) => error ? reject(error) : resolve(reply)));
const streamed = (stub, rpc, request) => new Promise((resolve, reject) => {
  const parts = [], call = stub[rpc](request, new grpc.Metadata(), deadline());
  call.on("data", part => parts.push(part));
  call.on("error", reject);
  call.on("end", () => resolve(parts));
});
const floats = tensor => Array.from(
  { length: tensor.data.length / 4 }, (_, place) => tensor.data.readFloatLE(4 * place));

async function main() {
  const row = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const data = Buffer.alloc(4 * row.length);
  row.forEach((value, place) => data.writeFloatLE(value, 4 * place));
  const inputs = { features: { tensor: { data_type: "DATA_TYPE_FLOAT32", shape: [1, row.length], data } } };
  const found = {};
  found.models = (await unary(models, "ListModels", {})).models.map(each => each.model.name);
  const predicted = await unary(explanations, "Predict", { model: { name: model }, inputs });
  found.values = floats(Object.values(predicted.outputs)[0].values);
  const explained = await unary(explanations, "Attribute",
    { model: { name: model }, inputs, explanation: { method: "integrated-gradients" } });
  found.scores = floats(explained.explanation.attributions[0].inputs.features.scores);
  const parts = await streamed(explanations, "Ablate", {
    model: { name: model }, inputs, method: "ablation",
    interventions: [{ kind: "INTERVENTION_KIND_ZERO", sites: [{ layer: "hidden1" }] }] });
  found.parts = parts.length;
  found.refusal = await unary(explanations, "Predict", { model: { name: "nothing" }, inputs }).then(
    () => "", error => grpc.status[error.code]);
  console.log(JSON.stringify(found));
}

main().then(() => process.exit(0), error => { console.error(error); process.exit(1); });
