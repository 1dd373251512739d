package edgebert.app

import android.content.Context
import edgebert.LiteRtModel
import edgebert.OnnxModel
import java.io.File
import java.io.FileInputStream
import java.nio.channels.FileChannel

/** The bundle in the app's assets, and the two runtimes that open its files. */
class AssetBundle(private val context: Context) : BundleFiles {
    override fun text(name: String): String = context.assets.open("bundle/$name").use { it.readBytes().decodeToString() }

    /** From a path: as bytes the model would also lie in the Java heap, and points share a file of weights beside them. */
    val onnx = Runtime { file, threads, _ -> OnnxModel(File(unpacked, file).path, threads) }

    /** From the asset itself, mapped: nothing is copied. */
    val litert = Runtime { file, threads, point ->
        val mapped = context.assets.openFd("bundle/$file").use { asset ->
            FileInputStream(asset.fileDescriptor).use { stream ->
                stream.channel.map(FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength)
            }
        }
        LiteRtModel(mapped, threads, point)
    }

    /** The ONNX files, copied out of the assets once for each version of the app. */
    private val unpacked: File by lazy {
        val root = File(context.noBackupFilesDir, "bundle")
        val made = File(root, context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime.toString())
        if (!made.isDirectory) {
            root.deleteRecursively()
            val partial = File(root, "partial").apply { mkdirs() }
            for (name in context.assets.list("bundle").orEmpty().filter { it.endsWith(".onnx") || it.endsWith(".onnx.data") }) {
                context.assets.open("bundle/$name").use { from -> File(partial, name).outputStream().use { from.copyTo(it) } }
            }
            check(partial.renameTo(made)) { "cannot write to $root" }
        }
        made
    }
}
