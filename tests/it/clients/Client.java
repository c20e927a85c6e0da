import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** The JDK's own client, HTTP/2 preferred, as any program uses it: proxy and trust come from JAVA_TOOL_OPTIONS. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String method : new String[] {"GET", "POST"}) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "?api_key=static-canary-query"))
                .header("Authorization", "Bearer static-canary-bearer")
                .header("X-Api-Key", "static-canary-key")
                .method(method, method.equals("POST") ? HttpRequest.BodyPublishers.ofString("hello") : HttpRequest.BodyPublishers.noBody())
                .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version());
        }
    }
}
