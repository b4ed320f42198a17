// Run a step graph in onnxruntime from C# (package Microsoft.ML.OnnxRuntime 1.16 or later).
//
//     dotnet run -- model.onnx frames.f32 outputs.f32

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text.Json;
using Microsoft.ML.OnnxRuntime;

using var session = new InferenceSession(args[0]);
using var runOptions = new RunOptions();
var layout = JsonDocument.Parse(session.ModelMetadata.CustomMetadataMap["streamrnn"]).RootElement;

var shapes = session.InputMetadata.ToDictionary(
    input => input.Key, input => input.Value.Dimensions.Select(d => (long)d).ToArray());
var feedsBack = new Dictionary<string, string>(); // output of a state: its input
var feeds = new Dictionary<string, float[]>(); // states, and the frames of one call
foreach (var state in layout.GetProperty("states").EnumerateArray())
{
    var name = state.GetProperty("input").GetString()!;
    feedsBack[state.GetProperty("output").GetString()!] = name;
    var initial = state.GetProperty("initial");
    feeds[name] = initial.ValueKind == JsonValueKind.Array
        ? initial.EnumerateArray().Select(number => number.GetSingle()).ToArray()
        : Enumerable.Repeat(initial.GetSingle(), Size(shapes[name])).ToArray();
}
var x = shapes.Keys.Single(name => !feeds.ContainsKey(name));
var names = session.OutputMetadata.Keys.ToList();
var waited = layout.GetProperty("delay_frames").GetInt64()
    / layout.GetProperty("stride_frames").GetInt64();

var frames = MemoryMarshal.Cast<byte, float>(File.ReadAllBytes(args[1])).ToArray();
using var target = File.Create(args[2]);
var size = Size(shapes[x]); // `stride_frames` frames
for (var call = 0; (call + 1) * size <= frames.Length; call++)
{
    feeds[x] = frames[(call * size)..((call + 1) * size)];
    var inputs = feeds.ToDictionary(
        feed => feed.Key, feed => OrtValue.CreateTensorValueFromMemory(feed.Value, shapes[feed.Key]));
    using var results = session.Run(runOptions, inputs, names);
    for (var i = 0; i < names.Count; i++)
    {
        var values = results[i].GetTensorDataAsSpan<float>();
        if (feedsBack.TryGetValue(names[i], out var state))
            feeds[state] = values.ToArray();
        else if (call >= waited) // before, the outputs mean nothing
            target.Write(MemoryMarshal.AsBytes(values));
    }
    foreach (var input in inputs.Values)
        input.Dispose();
}

static int Size(long[] shape) => (int)shape.Aggregate(1L, (n, d) => n * d);
