import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Fetches a URL with blocking sockets, and then with non-blocking ones. */
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        try (var in = uri.toURL().openStream()) {
            System.out.print(new String(in.readAllBytes()));
        }
        var request = HttpRequest.newBuilder(uri).build();
        System.out.print(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
