package edgebert

import java.io.File
import kotlin.system.exitProcess

/** BUNDLE "a text" ["a second text"], or BUNDLE --golden, on a JVM with ONNX Runtime; --point N first for that one. */
fun main(given: Array<String>) {
    val asked = given.firstOrNull() == "--point" && given.size > 1
    val point = if (asked) given[1].toInt() else 1
    val words = if (asked) given.drop(2) else given.toList()
    if (words.size !in 2..3) {
        System.err.println("give BUNDLE and a text, BUNDLE and two texts, or BUNDLE and --golden")
        exitProcess(2)
    }
    val bundle = File(words[0])
    val app = bundle.resolve("samples/app.json").readText()
    val settings = Json.parse(app) as Map<*, *>
    val points = settings["points"] as List<*>
    if (point !in 1..points.size) {
        System.err.println("this bundle has ${points.size} operating points, and no $point")
        exitProcess(2)
    }
    val file = (points[point - 1] as Map<*, *>)["onnx"] as String
    val golden = if (point == 1) "golden.json" else "golden_point$point.json"
    val model = OnnxModel(bundle.resolve(file).path, (settings["threads"] as Number).toInt())
    Classifier(app, bundle.resolve("labels.json").readText(), bundle.resolve("vocab.txt").readText(), model).use {
        if (words[1] == "--golden") tell(runCatching { checkGolden(it, bundle.resolve(golden).readText(), file) })
        else for ((text, label, score) in it.classify(words[1], words.getOrNull(2)))
            println(listOfNotNull(text, label, "%.4f".format(java.util.Locale.ROOT, score)).joinToString("\t"))
    }
}

/** Ends the program where the file does not answer as it should. */
private fun tell(found: Result<GoldenCheck>) {
    val check = found.getOrNull()
    check?.let {
        println("${it.rows} golden rows: the same ids; logits off by %.1e, allowed %.1e".format(java.util.Locale.ROOT, it.off, it.allowed))
    }
    if (check?.ok != true) {
        System.err.println(found.exceptionOrNull()?.message ?: "the logits are too far off")
        exitProcess(1)
    }
}
