import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/** Counts its requests; the count lives in memory alone. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        var count = new AtomicInteger();
        var words = new java.util.HashMap<Integer, String>();
        for (int index = 0; index < 50000; index++) {
            words.put(index, "word " + index);
        }
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 16);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/", exchange -> {
            int number = count.incrementAndGet();
            // Garbage, so that the collector has work between two freezes.
            var garbage = new StringBuilder();
            for (int index = 0; index < 20000; index++) {
                garbage.append(words.get(index % 50000));
            }
            var bytes = (number + " " + words.get((number * 7919) % 50000) + "\n").getBytes();
            exchange.sendResponseHeaders(200, bytes.length);
            exchange.getResponseBody().write(bytes);
            exchange.close();
        });
        server.start();
        Files.writeString(Path.of("draft"), String.valueOf(server.getAddress().getPort()));
        Files.move(Path.of("draft"), Path.of("port"), StandardCopyOption.ATOMIC_MOVE);
    }
}
