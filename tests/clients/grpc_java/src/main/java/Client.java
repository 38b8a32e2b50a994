import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** A client by grpc-java that sends bytes and tells what came back; input and output as of ../grpc_go/main.go. */
public final class Client {
  private static final HexFormat HEX = HexFormat.of();

  /** Passes messages on as bytes. */
  private static final MethodDescriptor.Marshaller<byte[]> RAW =
      new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] value) {
          return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
          try {
            return stream.readAllBytes();
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        }
      };

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      System.out.println(call(channel, line.split("\t", -1)));
    }
    channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
  }

  private static String call(ManagedChannel channel, String[] fields) throws Exception {
    MethodDescriptor<byte[], byte[]> method =
        MethodDescriptor.newBuilder(RAW, RAW)
            .setType(fields[0].equals("unary") ? MethodDescriptor.MethodType.UNARY : MethodDescriptor.MethodType.BIDI_STREAMING)
            .setFullMethodName(fields[1].substring(1))
            .build();
    Metadata metadata = new Metadata();
    for (String pair : fields[3].split(",")) {
      String[] parts = pair.split("=", 2);
      if (parts.length == 2) {
        metadata.put(Metadata.Key.of(parts[0], Metadata.ASCII_STRING_MARSHALLER), parts[1]);
      }
    }
    ClientCall<byte[], byte[]> call =
        channel.newCall(method, CallOptions.DEFAULT.withDeadlineAfter(Long.parseLong(fields[2]), TimeUnit.MILLISECONDS));
    List<String> replies = new ArrayList<>();
    CompletableFuture<Status> ended = new CompletableFuture<>();
    call.start(
        new ClientCall.Listener<>() {
          @Override
          public void onMessage(byte[] message) {
            replies.add(HEX.formatHex(message));
            call.request(1);
          }

          @Override
          public void onClose(Status status, Metadata trailers) {
            ended.complete(status);
          }
        },
        metadata);
    call.request(2);
    for (String text : fields[4].split(",")) {
      call.sendMessage(HEX.parseHex(text));
    }
    call.halfClose();
    Status status = ended.get(60, TimeUnit.SECONDS);
    String message = status.getDescription() == null ? "" : status.getDescription();
    return status.getCode() + "\t" + HEX.formatHex(message.getBytes(StandardCharsets.UTF_8)) + "\t" + String.join(",", replies);
  }
}
